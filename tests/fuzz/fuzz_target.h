// What a fuzz target is: one file that defines this function, which must neither crash nor hang,
// whatever the bytes. libFuzzer calls it in a build with SWINFLEET_FUZZ, and replay_test.cc with
// the committed inputs in every build.
#ifndef SWINFLEET_TESTS_FUZZ_FUZZ_TARGET_H_
#define SWINFLEET_TESTS_FUZZ_FUZZ_TARGET_H_

#include <cstddef>
#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

#endif  // SWINFLEET_TESTS_FUZZ_FUZZ_TARGET_H_
