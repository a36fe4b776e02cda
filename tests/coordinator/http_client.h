// HTTP as a browser or an attacker would send it: raw bytes over a connection, with TLS or without.
#ifndef SWINFLEET_TESTS_COORDINATOR_HTTP_CLIENT_H_
#define SWINFLEET_TESTS_COORDINATOR_HTTP_CLIENT_H_

#include <gnutls/gnutls.h>

#include <map>
#include <nlohmann/json.hpp>
#include <string>

namespace swinfleet::coordinator {

// Files of a client that speaks TLS; without an authority it does not.
struct HttpTls {
  std::string authority{};
  std::string certificate{};
  std::string key{};
};

struct HttpAnswer {
  // 0: none came.
  int status = 0;
  // Names in lower case.
  std::map<std::string, std::string> headers;
  std::string body;

  nlohmann::json Json() const { return nlohmann::json::parse(body, nullptr, false); }
  std::string Error() const { return Json().value("error", ""); }
};

// One connection to 127.0.0.1.
class HttpConnection {
 public:
  // `receive_buffer`: bytes that the system takes for who does not read; 0: as it likes.
  explicit HttpConnection(int port, const HttpTls& tls = {}, int receive_buffer = 0);
  ~HttpConnection();
  HttpConnection(const HttpConnection&) = delete;
  HttpConnection& operator=(const HttpConnection&) = delete;

  // False: the connection or its TLS handshake did not come about.
  bool good() const { return good_; }
  // False: the other side has closed.
  bool Send(const std::string& bytes);
  // All that comes until the other side closes, for `seconds` at most.
  std::string ReadToEnd(double seconds = 20);
  // The other side closes within `seconds`.
  bool AwaitEnd(double seconds = 20);

 private:
  int Read(char* bytes, size_t size);

  int socket_ = -1;
  bool good_ = false;
  gnutls_session_t session_ = nullptr;
  gnutls_certificate_credentials_t credentials_ = nullptr;
};

using HttpHeaders = std::map<std::string, std::string>;

// One request on a connection of its own. Host is the address unless `headers` has another.
HttpAnswer AskHttp(int port, const std::string& method, const std::string& path,
                   const HttpHeaders& headers = {}, const std::string& body = "",
                   const HttpTls& tls = {});
HttpAnswer ParseHttp(const std::string& text);

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_TESTS_COORDINATOR_HTTP_CLIENT_H_
