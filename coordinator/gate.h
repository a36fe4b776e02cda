// What every request passes first: who asks, whether they may, and whether they ask too often.
// Refusals go to the audit log. One object serves all servers of the coordinator.
#ifndef SWINFLEET_COORDINATOR_GATE_H_
#define SWINFLEET_COORDINATOR_GATE_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "coordinator/access.h"
#include "coordinator/access_store.h"
#include "coordinator/audit.h"
#include "coordinator/control_loop.h"
#include "coordinator/rate_limiter.h"

namespace swinfleet::coordinator {

// kCancel and kTrace let in whoever may do that to a job of their own; whose the job is, is asked
// afterwards.
enum class Action { kView, kSubmit, kCancel, kTrace, kFence, kServe };

// The other end of a connection.
struct Peer {
  // "10.0.0.7:51312", "[::1]:51312".
  std::string address;
  bool tls = false;
  // What came after "Bearer ".
  std::string token;
};

struct Caller {
  Identity identity;
  // Peer::address
  std::string from;
};

struct GateOptions {
  // Of each user, fleet token or, without one, host; 0: any number.
  double requests_per_second = 1000;
  // With no token at all everybody may do everything (access.h).
  bool open_without_tokens = false;
  // The listening address of the gRPC server speaks TLS.
  bool tls = false;
  // Seconds since 1970, and on a clock that never jumps.
  std::function<double()> clock;
  std::function<double()> uptime;
};

// Thread-safe.
class Gate {
 public:
  // `control` must outlive the gate. Tokens that are made or revoked are known within a second.
  static grpc::Status Open(const GateOptions& options, std::unique_ptr<AccessStore> store,
                           ControlLoop* control, std::unique_ptr<Gate>* out);

  // UNAUTHENTICATED, PERMISSION_DENIED or RESOURCE_EXHAUSTED, with what to do; `subject` is what
  // the request is about, for the audit log.
  grpc::Status Enter(const Peer& peer, Action action, const std::string& subject, Caller* caller);
  grpc::Status Enter(const grpc::CallbackServerContext& context, Action action,
                     const std::string& subject, Caller* caller);

  // The other end of a gRPC call.
  Peer PeerOf(const grpc::CallbackServerContext& context) const;

  // Records a refusal that was decided behind the gate, and returns it.
  grpc::Status Refuse(const Caller& caller, Action action, const std::string& subject,
                      const grpc::Status& refusal);
  // A line about a change by the caller, who says to be `claimed`; ControlLoop::Request adds what
  // comes of it.
  static AuditEntry Entry(const Caller& caller, Action action, const std::string& subject,
                          const std::string& claimed = "");

  // Why a caller who has a connection open is to lose it; empty: nothing speaks against it.
  std::string Lapsed(const Identity& identity);

  // Everybody may do everything at present.
  bool open() const { return access_.open(); }

 private:
  Gate(const GateOptions& options, std::unique_ptr<AccessStore> store, ControlLoop* control);
  // Takes the tokens from the store, if they may have changed.
  grpc::Status Refresh();
  void RefreshSometimes();

  const GateOptions options_;
  ControlLoop* const control_;
  AccessControl access_;
  RateLimiter limiter_;

  std::mutex mutex_;
  const std::unique_ptr<AccessStore> store_;
  int64_t generation_ = -1;
  double refresh_at_ = 0;
};

// What gRPC calls a peer ("ipv4:10.0.0.7:51312", "ipv6:%5B::1%5D:51312"), as people write it. An
// IPv4 address inside of IPv6 is that address.
std::string PeerAddress(const std::string& grpc_peer);

// The token of an "authorization" header; empty if it has none.
std::string BearerToken(const std::string& header);

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_GATE_H_
