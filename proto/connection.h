// How clients (the command line, supervisors, workers) reach the coordinator: over TLS or not, and
// with which token.
#ifndef SWINFLEET_PROTO_CONNECTION_H_
#define SWINFLEET_PROTO_CONNECTION_H_

#include <grpcpp/channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace swinfleet {

// Files, all of them optional. TLS is used where ca_file is set.
struct ConnectionOptions {
  // Authorities, one of which has signed the coordinator's certificate.
  std::string ca_file{};
  // This side's certificate and key, for a coordinator that asks for them.
  std::string certificate_file{};
  std::string key_file{};
  // The token; without one that of $SWINFLEET_TOKEN, if it is set.
  std::string token_file{};
};

// The options of a command line that set them, and for where one is not given its environment
// variable.
struct ConnectionFlag {
  const char* flag;
  const char* variable;
  std::string ConnectionOptions::*file;
  const char* help;
};
inline constexpr ConnectionFlag kConnectionFlags[] = {
    {"--tls-ca", "SWINFLEET_TLS_CA", &ConnectionOptions::ca_file,
     "Reach the coordinator over TLS; its certificate is signed by one of this file's authorities "
     "(PEM) [$SWINFLEET_TLS_CA]"},
    {"--tls-cert", "SWINFLEET_TLS_CERT", &ConnectionOptions::certificate_file,
     "This side's certificate (PEM), for a coordinator that asks for one [$SWINFLEET_TLS_CERT]"},
    {"--tls-key", "SWINFLEET_TLS_KEY", &ConnectionOptions::key_file,
     "The key of --tls-cert (PEM), which nobody else may read [$SWINFLEET_TLS_KEY]"},
    {"--token-file", "SWINFLEET_TOKEN_FILE", &ConnectionOptions::token_file,
     "File with the token, which nobody else may read [$SWINFLEET_TOKEN_FILE, or the token itself "
     "in $SWINFLEET_TOKEN]"},
};

// Fills in what the command line left open.
void CompleteFromEnvironment(ConnectionOptions* options);

// "--tls-ca" and its file, and so on, of those that are set, for another program: with absolute
// paths.
std::vector<std::pair<std::string, std::string>> ConnectionArguments(
    const ConnectionOptions& options);

// What the files hold. Copies share the token, which is read anew for every request, so that it can
// be replaced while programs run; the other files are read once. Unless read: plain text, no token.
class Credentials {
 public:
  // Reads and checks the files, for a coordinator at `address` (HOST:PORT). Returns what is wrong,
  // with what to do; empty: nothing. A token is not sent in plain text to another machine: that is
  // an error here.
  static std::string Read(const ConnectionOptions& options, const std::string& address,
                          Credentials* out);

  bool tls() const { return ssl_.has_value(); }
  // `target` is gRPC's name of the address that was given to Read.
  std::shared_ptr<grpc::Channel> Connect(const std::string& target,
                                         const grpc::ChannelArguments& arguments) const;

 private:
  class TokenSource;
  class TokenInterceptor;
  class TokenInterceptorFactory;

  // Of gRPC's objects none is made before Connect: its threads start with the first one, and take
  // signals that a program blocks later.
  std::optional<grpc::SslCredentialsOptions> ssl_;
  // Null: no token.
  std::shared_ptr<TokenSource> token_;
};

// The host of HOST:PORT, with its brackets.
std::string HostOf(const std::string& address);

// The host of HOST:PORT is an address of this machine's loopback, or "localhost".
bool IsLoopbackAddress(const std::string& address);

// What to try when a connection failed, for people, with a leading space: gRPC's own words for a
// peer that speaks no TLS, or not ours, say little. Empty where it knows nothing.
std::string ConnectionHint(const Credentials& credentials, const std::string& message);

}  // namespace swinfleet

#endif  // SWINFLEET_PROTO_CONNECTION_H_
