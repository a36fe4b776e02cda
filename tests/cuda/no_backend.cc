// A library that is no CUDA backend.
extern "C" int SwinfleetSomethingElse() { return 0; }
