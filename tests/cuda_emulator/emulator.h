// The emulator of the CUDA execution model, as tests see it.
//
// Kernels run one at a time: each thread of a block is a fiber, a block runs to its end before
// another begins, and blocks and threads take turns in an order made from a seed. Streams are
// deferred: what is put on them runs when the host waits for it, interleaved at random as far as
// events allow; and where ranks exchange (nccl.cc) also beside a host that calls nothing. They take
// few entries: the host waits in the call that finds no room. A fault ends the process with a
// message on standard error that names file and line:
//  * barriers and warp operations that not all of their threads come to, or at different lines;
//  * stores outside of an allocation (guard bytes, verified after every kernel), and any access
//    outside when the CUDA sources are compiled with the address sanitizer;
//  * accesses of two threads, blocks or streams that nothing orders, and accesses to host memory,
//    when the CUDA sources are compiled with -fsanitize=thread (race.cc);
//  * host code that touches device memory: it has no access to it between kernels;
//  * launches and copies that a device would refuse.
// Shared memory of a new block and new device memory hold NaN.
#ifndef SWINFLEET_TESTS_CUDA_EMULATOR_EMULATOR_H_
#define SWINFLEET_TESTS_CUDA_EMULATOR_EMULATOR_H_

#include <cstddef>
#include <cstdint>

namespace swinfleet::emulator {

// The order of blocks, threads and streams from here on. 0: by their numbers.
void SetOrder(uint64_t seed);

// Device memory between guards, `offset` bytes past a multiple of 256; freed by cudaFree.
void* AllocateDevice(size_t bytes, size_t offset);

// What a stream takes at once: kernels, copies, events and waits for them. On a device it is about
// a thousand.
inline constexpr size_t kQueueEntries = 64;

// Kernels that were put on streams so far, those of libraries among them.
int64_t Launches();
// Events that there are.
size_t Events();

// What cuBLASLt and cuDNN were asked for so far beside computing: handles and descriptors that
// were made, and algorithms that were looked for. Each takes time of the host.
int64_t LibraryPreparations();

// Whether CUDA sources of this program report their accesses to the race checker.
bool ChecksRaces();
// Whether they report them to it or to the address sanitizer, and take several times as long.
bool ChecksAccesses();

// Variables of the environment take barriers out one at a time: SWINFLEET_CUDA_SITES names a
// file to which each line is appended, once, at which a kernel waits for others (__syncthreads, the
// operations of warps, the wait for cp.async) or a stream for another's event, and at the line in
// SWINFLEET_CUDA_SKIP nothing waits: what lanes would have exchanged there stays where it is; and
// in SWINFLEET_CUDA_MASK is the line at which the mask of a warp operation is to lack its last
// lane. Lines as FILE:LINE, without folders.

// SWINFLEET_CUDA_FAULT names what fails, once while it does: "pinning" of the host's memory;
// "copying", the second call of a copy into memory that was pinned so; "copy", the first of these
// copies when it runs, which is told to whoever next waits for its stream or an event of it;
// "silence": a thread that waits for a device answers for it alone, and all calls of other threads
// wait too.

// While SWINFLEET_CUDA_RESERVED is there, it is a fault to reserve what a program has from the
// beginning: "memory", of a device or pinned, "all", that and streams and events.

// SWINFLEET_CUDA_GPUS says how many GPUs there are (devices.cc), and SWINFLEET_CUDA_ORDER the order
// that SetOrder sets, from the beginning.

}  // namespace swinfleet::emulator

#endif  // SWINFLEET_TESTS_CUDA_EMULATOR_EMULATOR_H_
