#include "proto/connection.h"

#include <arpa/inet.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/support/client_interceptor.h>
#include <netinet/in.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <mutex>
#include <system_error>
#include <utility>

#include "proto/pem.h"

namespace swinfleet {
namespace {

constexpr char kTokenVariable[] = "SWINFLEET_TOKEN";
constexpr size_t kMaxToken = 256;

// What a header may carry; a token that was cut, or has a second line, is found here.
std::string TokenFault(const std::string& where, const std::string& token) {
  const bool good = !token.empty() && token.size() <= kMaxToken &&
                    std::all_of(token.begin(), token.end(), [](unsigned char c) {
                      return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.';
                    });
  return good ? ""
              : where +
                    " has no token: that is one line of letters and digits, as "
                    "`swinfleet-coordinator token add` prints it";
}

std::string ReadToken(const std::string& path, std::string* token) {
  std::string text;
  if (std::string fault = ReadSecretFile(path, &text); !fault.empty()) return fault;
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())) != 0) {
    text.pop_back();
  }
  if (std::string fault = TokenFault(path, text); !fault.empty()) return fault;
  *token = text;
  return "";
}

}  // namespace

class Credentials::TokenSource {
 public:
  // `path` is empty if the token is that of the environment.
  TokenSource(std::string path, std::string token)
      : path_(std::move(path)), token_(std::move(token)) {}

  // The file's; while that can't be read (it is being replaced), the one before.
  std::string Current() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!path_.empty()) ReadToken(path_, &token_);
    return token_;
  }

 private:
  const std::string path_;
  std::mutex mutex_;
  std::string token_;
};

class Credentials::TokenInterceptor final : public grpc::experimental::Interceptor {
 public:
  explicit TokenInterceptor(std::string token) : token_(std::move(token)) {}
  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    using grpc::experimental::InterceptionHookPoints;
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      methods->GetSendInitialMetadata()->emplace("authorization", "Bearer " + token_);
    }
    methods->Proceed();
  }

 private:
  const std::string token_;
};

// Every request of a channel carries the token, whoever makes it.
class Credentials::TokenInterceptorFactory final
    : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  explicit TokenInterceptorFactory(std::shared_ptr<TokenSource> source)
      : source_(std::move(source)) {}
  grpc::experimental::Interceptor* CreateClientInterceptor(
      grpc::experimental::ClientRpcInfo*) override {
    return new TokenInterceptor(source_->Current());
  }

 private:
  const std::shared_ptr<TokenSource> source_;
};

void CompleteFromEnvironment(ConnectionOptions* options) {
  for (const ConnectionFlag& flag : kConnectionFlags) {
    const char* const value = std::getenv(flag.variable);
    if ((options->*flag.file).empty() && value != nullptr) options->*flag.file = value;
  }
}

std::vector<std::pair<std::string, std::string>> ConnectionArguments(
    const ConnectionOptions& options) {
  std::vector<std::pair<std::string, std::string>> arguments;
  for (const ConnectionFlag& flag : kConnectionFlags) {
    const std::string& file = options.*flag.file;
    std::error_code failure;
    const std::filesystem::path absolute = std::filesystem::absolute(file, failure);
    if (!file.empty()) arguments.emplace_back(flag.flag, failure ? file : absolute.string());
  }
  return arguments;
}

std::string Credentials::Read(const ConnectionOptions& options, const std::string& address,
                              Credentials* out) {
  Credentials result;
  const bool has_certificate = !options.certificate_file.empty();
  if (has_certificate != !options.key_file.empty()) {
    return "--tls-cert and --tls-key belong together: give both or none";
  }
  if (has_certificate && options.ca_file.empty()) {
    return "--tls-cert is of no use without --tls-ca, which turns TLS on";
  }
  if (!options.ca_file.empty()) {
    grpc::SslCredentialsOptions ssl;
    std::string fault = ReadAuthorities(options.ca_file, &ssl.pem_root_certs);
    if (fault.empty() && has_certificate) {
      fault = ReadCertificateAndKey(options.certificate_file, options.key_file, std::time(nullptr),
                                    &ssl.pem_cert_chain, &ssl.pem_private_key);
    }
    if (!fault.empty()) return fault;
    result.ssl_ = std::move(ssl);
  }
  const char* const variable = std::getenv(kTokenVariable);
  std::string token;
  std::string fault;
  if (!options.token_file.empty()) {
    fault = ReadToken(options.token_file, &token);
  } else if (variable != nullptr && variable[0] != '\0') {
    token = variable;
    fault = TokenFault("$" + std::string(kTokenVariable), token);
  }
  if (!fault.empty()) return fault;
  if (!token.empty()) {
    if (!result.tls() && !IsLoopbackAddress(address)) {
      return "the token would cross the network to " + address +
             " in plain text, where others can read it; give --tls-ca FILE (or $SWINFLEET_TLS_CA) "
             "to use TLS, or no token";
    }
    result.token_ = std::make_shared<TokenSource>(options.token_file, token);
  }
  *out = std::move(result);
  return "";
}

std::shared_ptr<grpc::Channel> Credentials::Connect(const std::string& target,
                                                    const grpc::ChannelArguments& arguments) const {
  const auto credentials = ssl_ ? grpc::SslCredentials(*ssl_) : grpc::InsecureChannelCredentials();
  if (token_ == nullptr) return grpc::CreateCustomChannel(target, credentials, arguments);
  std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(std::make_unique<TokenInterceptorFactory>(token_));
  return grpc::experimental::CreateCustomChannelWithInterceptors(target, credentials, arguments,
                                                                 std::move(interceptors));
}

std::string HostOf(const std::string& address) { return address.substr(0, address.rfind(':')); }

bool IsLoopbackAddress(const std::string& address) {
  std::string host = HostOf(address);
  if (host == "localhost") return true;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  in_addr v4;
  in6_addr v6;
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  return inet_pton(AF_INET6, host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

std::string ConnectionHint(const Credentials& credentials, const std::string& message) {
  if (!credentials.tls()) {
    const bool hung_up = message.find("Socket closed") != std::string::npos ||
                         message.find("Connection reset") != std::string::npos;
    return hung_up ? " If that coordinator uses TLS, give --tls-ca FILE." : "";
  }
  if (message.find("CERTIFICATE_VERIFY_FAILED") != std::string::npos ||
      message.find("certificate verify failed") != std::string::npos) {
    return " Its certificate is not signed by an authority of --tls-ca, or has expired.";
  }
  if (message.find("andshake") == std::string::npos &&
      message.find("Peer name") == std::string::npos &&
      message.find("Socket closed") == std::string::npos) {
    return "";
  }
  return " Does that coordinator use TLS, is its certificate for this host's name, and does it ask "
         "for a certificate of this side (--tls-cert, --tls-key)?";
}

}  // namespace swinfleet
