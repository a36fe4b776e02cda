// What may come in from outside: sizes and forms of everything that a peer sends. Behind these
// checks strings are bounded and printable.
#ifndef SWINFLEET_COORDINATOR_VALIDATION_H_
#define SWINFLEET_COORDINATOR_VALIDATION_H_

#include <grpcpp/support/status.h>

#include <string>

#include "proto/coordinator.pb.h"
#include "proto/roots.h"

namespace swinfleet::coordinator {

// Largest message that is taken from a peer, and the most that is put into one answer, in bytes.
inline constexpr int kMaxMessageBytes = 4 << 20;
inline constexpr size_t kMaxAnswerBytes = 3 << 20;

// INVALID_ARGUMENT with what to change, FAILED_PRECONDITION for another protocol version. Brings
// run_dir into its normal form. Its paths have to lie in `roots`.
grpc::Status CheckSubmission(SubmitJobRequest* request, const PathRoots& roots);

// An id or name that a user asks for.
grpc::Status CheckName(const std::string& what, const std::string& name);

// The limits of what may be asked for. Fills in what was left open.
grpc::Status CheckTrace(TraceJobRequest* request);

grpc::Status CheckLaunchReport(LaunchReport* report);

// Why the worker is to be turned away; empty when the message is fine. Texts that are only for
// people are cut to their limits.
std::string CheckWorkerMessage(WorkerMessage* message);

// "this client speaks protocol version 2, the coordinator 1; ..."; empty when they agree.
std::string VersionMismatch(const std::string& peer, uint32_t version);

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_VALIDATION_H_
