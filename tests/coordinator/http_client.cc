#include "tests/coordinator/http_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <sstream>

namespace swinfleet::coordinator {

HttpConnection::HttpConnection(int port, const HttpTls& tls, int receive_buffer) {
  socket_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (receive_buffer > 0) {
    setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
  }
  const timeval limit{20, 0};
  setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  good_ = connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  if (!good_ || tls.authority.empty()) return;
  gnutls_certificate_allocate_credentials(&credentials_);
  gnutls_certificate_set_x509_trust_file(credentials_, tls.authority.c_str(), GNUTLS_X509_FMT_PEM);
  if (!tls.certificate.empty()) {
    gnutls_certificate_set_x509_key_file(credentials_, tls.certificate.c_str(), tls.key.c_str(),
                                         GNUTLS_X509_FMT_PEM);
  }
  gnutls_init(&session_, GNUTLS_CLIENT);
  gnutls_set_default_priority(session_);
  gnutls_credentials_set(session_, GNUTLS_CRD_CERTIFICATE, credentials_);
  gnutls_session_set_verify_cert(session_, "127.0.0.1", 0);
  gnutls_transport_set_int(session_, socket_);
  int error = 0;
  do {
    error = gnutls_handshake(session_);
  } while (error < 0 && gnutls_error_is_fatal(error) == 0);
  good_ = error == GNUTLS_E_SUCCESS;
}

HttpConnection::~HttpConnection() {
  if (session_ != nullptr) gnutls_deinit(session_);
  if (credentials_ != nullptr) gnutls_certificate_free_credentials(credentials_);
  close(socket_);
}

bool HttpConnection::Send(const std::string& bytes) {
  size_t sent = 0;
  while (good_ && sent < bytes.size()) {
    const char* next = bytes.data() + sent;
    const size_t left = bytes.size() - sent;
    const ssize_t count = session_ != nullptr ? gnutls_record_send(session_, next, left)
                                              : send(socket_, next, left, MSG_NOSIGNAL);
    if (count <= 0) return false;
    sent += static_cast<size_t>(count);
  }
  return good_;
}

int HttpConnection::Read(char* bytes, size_t size) {
  ssize_t count = 0;
  if (session_ == nullptr) {
    // With a limit on its time no call is gone on with after a signal, such as that of a child's
    // end.
    do {
      count = recv(socket_, bytes, size, 0);
    } while (count < 0 && errno == EINTR);
    return static_cast<int>(count);
  }
  do {
    count = gnutls_record_recv(session_, bytes, size);
  } while (count == GNUTLS_E_AGAIN || count == GNUTLS_E_INTERRUPTED);
  return static_cast<int>(count);
}

std::string HttpConnection::ReadToEnd(double seconds) {
  std::string text;
  if (!good_) return text;
  const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  char bytes[16384];
  while (std::chrono::steady_clock::now() < until) {
    const int count = Read(bytes, sizeof(bytes));
    if (count <= 0) return text;
    text.append(bytes, static_cast<size_t>(count));
  }
  return text;
}

bool HttpConnection::AwaitEnd(double seconds) {
  pollfd wait{socket_, POLLIN, 0};
  char byte = 0;
  return !good_ || (poll(&wait, 1, static_cast<int>(seconds * 1000)) > 0 && Read(&byte, 1) <= 0);
}

HttpAnswer ParseHttp(const std::string& text) {
  HttpAnswer answer;
  const size_t end = text.find("\r\n\r\n");
  if (!text.starts_with("HTTP/1.") || end == std::string::npos) return answer;
  std::istringstream lines(text.substr(0, end));
  std::string line;
  std::getline(lines, line);
  answer.status = std::atoi(line.c_str() + sizeof("HTTP/1.1"));
  while (std::getline(lines, line)) {
    if (line.ends_with('\r')) line.pop_back();
    const size_t colon = line.find(':');
    std::string name = line.substr(0, colon);
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return std::tolower(c); });
    answer.headers[name] = colon == std::string::npos ? "" : line.substr(colon + 2);
  }
  answer.body = text.substr(end + 4);
  return answer;
}

HttpAnswer AskHttp(int port, const std::string& method, const std::string& path,
                   const HttpHeaders& headers, const std::string& body, const HttpTls& tls) {
  HttpHeaders all{{"Host", "127.0.0.1:" + std::to_string(port)}, {"Connection", "close"}};
  if (method == "POST") all["Content-Length"] = std::to_string(body.size());
  for (const auto& [name, value] : headers) all[name] = value;
  std::string request = method + " " + path + " HTTP/1.1\r\n";
  for (const auto& [name, value] : all) {
    if (!value.empty()) request.append(name).append(": ").append(value).append("\r\n");
  }
  HttpConnection connection(port, tls);
  connection.Send(request + "\r\n" + body);
  return ParseHttp(connection.ReadToEnd());
}

}  // namespace swinfleet::coordinator
