#include "coordinator/cli/app.h"

int main(int argc, char** argv) { return swinfleet::RunSwinfleet(argc, argv); }
