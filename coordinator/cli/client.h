// The command line's connection to the coordinator.
#ifndef SWINFLEET_COORDINATOR_CLI_CLIENT_H_
#define SWINFLEET_COORDINATOR_CLI_CLIENT_H_

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>

#include "proto/connection.h"
#include "proto/coordinator.grpc.pb.h"

namespace swinfleet {

class Client {
 public:
  // `address` is HOST:PORT (see IsValidAddress), `credentials` were read for it. Nothing is sent
  // yet.
  Client(const std::string& address, const Credentials& credentials);

  const std::string& address() const { return address_; }
  const Credentials& credentials() const { return credentials_; }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  Coordinator::Stub* stub() const { return stub_.get(); }

  // Waits until the connection is made or has failed; then a call fails at once and knows why. Says
  // UNAVAILABLE when neither happens within 3 seconds. `give_up` (may be null) ends the wait early.
  grpc::Status Connect(const std::atomic<bool>* give_up = nullptr) const;

  // One request, with a connection made first and `seconds` for the answer. `method` is a member
  // of Coordinator::Stub.
  template <typename Method, typename Request, typename Response>
  grpc::Status Call(Method method, const Request& request, Response* response,
                    int seconds = 10) const {
    const grpc::Status connected = Connect();
    if (!connected.ok()) return connected;
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(seconds));
    return (stub_.get()->*method)(&context, request, response);
  }

 private:
  const std::string address_;
  const Credentials credentials_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<Coordinator::Stub> stub_;
};

// HOST:PORT, with an IPv6 host in brackets.
bool IsValidAddress(const std::string& address);

// The request may work if it is repeated: nobody answered, or the connection broke.
bool IsUnreachable(const grpc::Status& status);

// Says on stderr what went wrong with a request about `subject` ("job 7"; may be empty) and what to
// do, and returns the exit code for it.
int ReportFailure(const grpc::Status& status, const Client& client, const std::string& subject);

}  // namespace swinfleet

#endif  // SWINFLEET_COORDINATOR_CLI_CLIENT_H_
