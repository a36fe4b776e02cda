#include "coordinator/cli/client.h"

#include <charconv>
#include <cstdio>

#include "coordinator/cli/exit_codes.h"
#include "coordinator/supervisor/escape.h"

namespace swinfleet {
namespace {

constexpr auto kConnectPatience = std::chrono::seconds(3);

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address,
                                           const Credentials& credentials) {
  grpc::ChannelArguments arguments;
  // The statuses of a hundred jobs with a thousand ranks each still fit.
  arguments.SetMaxReceiveMessageSize(64 << 20);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  arguments.SetInt(GRPC_ARG_DNS_MIN_TIME_BETWEEN_RESOLUTIONS_MS, 1000);
  // A submission may wait long for its answer; this tells a coordinator that is at work from one
  // that is gone.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // A proxy for the web is not the way to a coordinator.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return credentials.Connect("dns:" + address, arguments);
}

}  // namespace

Client::Client(const std::string& address, const Credentials& credentials)
    : address_(address),
      credentials_(credentials),
      channel_(MakeChannel(address, credentials)),
      stub_(Coordinator::NewStub(channel_)) {}

grpc::Status Client::Connect(const std::atomic<bool>* give_up) const {
  const auto deadline = std::chrono::system_clock::now() + kConnectPatience;
  // The caller paces its own attempts, so each of them is a real one.
  grpc::experimental::ChannelResetConnectionBackoff(channel_.get());
  bool attempted = false;
  for (;;) {
    const grpc_connectivity_state state = channel_->GetState(true);
    const bool failed = state == GRPC_CHANNEL_TRANSIENT_FAILURE;
    if (state == GRPC_CHANNEL_READY || (failed && attempted)) return grpc::Status::OK;
    const auto now = std::chrono::system_clock::now();
    if (now >= deadline || (give_up != nullptr && *give_up)) {
      return grpc::Status(grpc::StatusCode::UNAVAILABLE, "no answer within 3 seconds");
    }
    // A failure that stands here at first is that of the attempt before.
    attempted |= channel_->WaitForStateChange(state, now + std::chrono::milliseconds(100));
  }
}

bool IsValidAddress(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0) return false;
  const std::string host = address.substr(0, colon);
  const bool bracketed = host.front() == '[' && host.back() == ']' && host.size() > 2;
  if (!bracketed && host.find_first_of(":[]") != std::string::npos) return false;
  for (const char c : host) {
    const bool usable = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                        (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_' ||
                        (bracketed && (c == ':' || c == '[' || c == ']' || c == '%'));
    if (!usable) return false;
  }
  int port = 0;
  const char* const end = address.data() + address.size();
  const auto [parsed, error] = std::from_chars(address.data() + colon + 1, end, port);
  return error == std::errc() && parsed == end && port > 0 && port <= 65535;
}

bool IsUnreachable(const grpc::Status& status) {
  // A coordinator that stops cancels the requests that it is at; this side never does.
  return status.error_code() == grpc::StatusCode::UNAVAILABLE ||
         status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED ||
         status.error_code() == grpc::StatusCode::CANCELLED;
}

int ReportFailure(const grpc::Status& status, const Client& client, const std::string& subject) {
  const std::string message = EscapeForTerminal(status.error_message());
  if (IsUnreachable(status)) {
    std::fprintf(stderr,
                 "swinfleet: no coordinator answers at %s (%s).\n"
                 "Start one with swinfleet-coordinator, or name another with --coordinator "
                 "HOST:PORT or $SWINFLEET_COORDINATOR.%s\n",
                 client.address().c_str(), message.c_str(),
                 ConnectionHint(client.credentials(), message).c_str());
    return kExitUnreachable;
  }
  if (status.error_code() == grpc::StatusCode::NOT_FOUND) {
    const std::string missing = "there is no " + EscapeForTerminal(subject);
    std::fprintf(stderr, "swinfleet: %s\n", message.empty() ? missing.c_str() : message.c_str());
    return kExitNotFound;
  }
  if (status.error_code() == grpc::StatusCode::UNIMPLEMENTED) {
    std::fprintf(stderr,
                 "swinfleet: what answers at %s is no coordinator that knows this request (%s); "
                 "are both of the same version?\n",
                 client.address().c_str(), message.c_str());
    return kExitRefused;
  }
  std::fprintf(stderr, "swinfleet: the coordinator refused: %s\n",
               message.empty() ? "(no reason given)" : message.c_str());
  return kExitRefused;
}

}  // namespace swinfleet
