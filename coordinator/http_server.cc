#include "coordinator/http_server.h"

#include <arpa/inet.h>
#include <glog/logging.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "coordinator/clock.h"
#include "proto/text.h"

namespace swinfleet::coordinator {
namespace {

// With every answer. Nothing is loaded from elsewhere, nothing inline is obeyed, no other site may
// show the page in a frame or read an answer, and nothing is kept on the reader's disk.
constexpr std::pair<const char*, const char*> kHeaders[] = {
    {"Content-Security-Policy",
     "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
     "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
    {"X-Content-Type-Options", "nosniff"},
    {"X-Frame-Options", "DENY"},
    {"Referrer-Policy", "no-referrer"},
    {"Cross-Origin-Resource-Policy", "same-origin"},
    {"Cross-Origin-Opener-Policy", "same-origin"},
    {"Cache-Control", "no-store"},
};

HttpResponse PlainError(int status, const std::string& text) {
  return {.status = status, .body = text + "\n"};
}

// "10.0.0.7:51312", "[::1]:51312"; an IPv4 address inside of IPv6 is that address.
std::string AddressText(const sockaddr* address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address->sa_family == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(address);
    inet_ntop(AF_INET, &v4->sin_addr, text, sizeof(text));
    return std::string(text) + ":" + std::to_string(ntohs(v4->sin_port));
  }
  const auto* v6 = reinterpret_cast<const sockaddr_in6*>(address);
  const std::string port = ":" + std::to_string(ntohs(v6->sin6_port));
  if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) {
    inet_ntop(AF_INET, &v6->sin6_addr.s6_addr[12], text, sizeof(text));
    return text + port;
  }
  inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof(text));
  return "[" + std::string(text) + "]" + port;
}

MHD_Result KeepValue(void* map, MHD_ValueKind kind, const char* key, const char* value) {
  const std::string name = kind == MHD_HEADER_KIND ? LowerCase(key) : key;
  (*static_cast<std::map<std::string, std::string>*>(map))[name] = value == nullptr ? "" : value;
  return MHD_YES;
}

}  // namespace

std::string HttpRequest::Header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? "" : found->second;
}

// One request on its way.
struct HttpServer::Exchange {
  HttpRequest request;
  // The handler has it; from then on `render` is what is waited for.
  bool dispatched = false;
  Render render;
};

// What libmicrohttpd calls. A result of MHD_NO ends the connection.
struct HttpServer::Callbacks {
  static MHD_Result Access(void* server, MHD_Connection* connection, const char* url,
                           const char* method, const char* version, const char* upload,
                           size_t* upload_size, void** context) {
    auto* self = static_cast<HttpServer*>(server);
    auto* exchange = static_cast<Exchange*>(*context);
    if (exchange == nullptr) {
      exchange = new Exchange;
      *context = exchange;
      exchange->request.method = method == std::string("HEAD") ? "GET" : method;
      exchange->request.path = url;
      return self->Begin(connection, exchange, version) ? MHD_YES : MHD_NO;
    }
    if (*upload_size > 0) {
      std::string& body = exchange->request.body;
      if (body.size() + *upload_size > self->options_.max_body_bytes) return MHD_NO;
      body.append(upload, *upload_size);
      *upload_size = 0;
      return MHD_YES;
    }
    if (!exchange->dispatched) {
      self->Dispatch(connection, exchange);
      return MHD_YES;
    }
    return self->Respond(connection, exchange->render()) ? MHD_YES : MHD_NO;
  }

  static void Completed(void*, MHD_Connection*, void** context, MHD_RequestTerminationCode) {
    delete static_cast<Exchange*>(*context);
    *context = nullptr;
  }

  static void Notify(void* server, MHD_Connection* connection, void**,
                     MHD_ConnectionNotificationCode code) {
    auto* self = static_cast<HttpServer*>(server);
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
      self->Opened(connection);
    } else {
      self->Closed(connection);
    }
  }
};

HttpServer::HttpServer(HttpOptions options, Handler handler)
    : options_(std::move(options)), handler_(std::move(handler)) {}

HttpServer::~HttpServer() { Stop(); }

grpc::Status HttpServer::Start(const HttpOptions& options, Handler handler,
                               std::unique_ptr<HttpServer>* out) {
  std::unique_ptr<HttpServer> server(new HttpServer(options, std::move(handler)));
  if (const std::string fault = ReadTls(options.tls, &server->tls_); !fault.empty()) {
    return {grpc::StatusCode::INVALID_ARGUMENT, fault};
  }
  const std::string wanted = options.listen.ToString();
  int socket = -1;
  if (const std::string why = OpenListener(&server->options_.listen, &socket); !why.empty()) {
    return {grpc::StatusCode::UNAVAILABLE,
            "can't listen on " + wanted + ": " + why +
                "; choose another address with --http, port 0 takes a free one"};
  }
  const grpc::Status status = server->Listen(socket);
  if (status.ok()) *out = std::move(server);
  return status;
}

grpc::Status HttpServer::Listen(int socket) {
  std::vector<MHD_OptionItem> items;
  const auto text = [&](MHD_OPTION option, std::string& value) {
    items.push_back({option, 0, value.data()});
  };
  std::string priorities = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2";
  if (!options_.tls.empty()) {
    text(MHD_OPTION_HTTPS_MEM_CERT, tls_.certificate);
    text(MHD_OPTION_HTTPS_MEM_KEY, tls_.key);
    text(MHD_OPTION_HTTPS_PRIORITIES, priorities);
    if (!tls_.client_ca.empty()) text(MHD_OPTION_HTTPS_MEM_TRUST, tls_.client_ca);
  }
  items.push_back({MHD_OPTION_END, 0, nullptr});
  const auto connections = static_cast<unsigned>(options_.max_connections);
  unsigned flags = MHD_USE_AUTO | MHD_USE_INTERNAL_POLLING_THREAD | MHD_ALLOW_SUSPEND_RESUME;
  if (!options_.tls.empty()) flags |= MHD_USE_TLS;
  daemon_ = MHD_start_daemon(flags, 0, nullptr, nullptr, &Callbacks::Access, this,               //
                             MHD_OPTION_LISTEN_SOCKET, static_cast<MHD_socket>(socket),          //
                             MHD_OPTION_NOTIFY_COMPLETED, &Callbacks::Completed, nullptr,        //
                             MHD_OPTION_NOTIFY_CONNECTION, &Callbacks::Notify, this,             //
                             MHD_OPTION_CONNECTION_LIMIT, connections,                           //
                             MHD_OPTION_PER_IP_CONNECTION_LIMIT, std::max(1u, connections / 2),  //
                             MHD_OPTION_CONNECTION_TIMEOUT,
                             static_cast<unsigned>(options_.idle_seconds),  //
                             MHD_OPTION_STRICT_FOR_CLIENT, 1,               //
                             MHD_OPTION_ARRAY, items.data(), MHD_OPTION_END);
  if (daemon_ == nullptr) {
    close(socket);
    return {grpc::StatusCode::UNAVAILABLE,
            "the HTTP server can't be started on " + options_.listen.ToString() +
                (options_.tls.empty() ? "" : "; is the certificate one that GnuTLS takes?")};
  }
  clock_ = std::thread([this] { EndOldConnections(); });
  return grpc::Status::OK;
}

void HttpServer::Stop() {
  if (daemon_ == nullptr) return;
  {
    std::unique_lock lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
    changed_.wait(lock, [this] { return owed_ == 0; });
  }
  MHD_stop_daemon(daemon_);
  daemon_ = nullptr;
  clock_.join();
}

// ---- On the server's thread ----

bool HttpServer::Begin(MHD_Connection* connection, Exchange* exchange, const char* version) {
  HttpRequest& request = exchange->request;
  MHD_get_connection_values(connection, MHD_HEADER_KIND, &KeepValue, &request.headers);
  MHD_get_connection_values(connection, MHD_GET_ARGUMENT_KIND, &KeepValue, &request.query);
  const MHD_ConnectionInfo* info =
      MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
  request.peer.address = AddressText(info->client_addr);
  request.peer.tls = !options_.tls.empty();
  request.peer.token = BearerToken(request.Header("authorization"));
  if (const std::string fault = CertificateFault(connection); !fault.empty()) {
    return Respond(connection, PlainError(403, fault));
  }
  if (!std::string(version).starts_with("HTTP/1.")) {
    return Respond(connection, PlainError(505, "only HTTP/1.1 is spoken here"));
  }
  if (request.method != "GET" && request.method != "POST") {
    HttpResponse response = PlainError(405, "only GET, HEAD and POST are taken here");
    response.headers.emplace_back("Allow", "GET, HEAD, POST");
    return Respond(connection, response);
  }
  // Told beforehand where the length is; otherwise the connection ends at the limit.
  const std::string length = request.Header("content-length");
  const std::string limit = std::to_string(options_.max_body_bytes);
  if (length.size() > limit.size() || (length.size() == limit.size() && length > limit)) {
    return Respond(connection,
                   PlainError(413, "a request's body may have " + limit + " bytes at most"));
  }
  return true;
}

std::string HttpServer::CertificateFault(MHD_Connection* connection) const {
  if (tls_.client_ca.empty()) return "";
  const MHD_ConnectionInfo* info =
      MHD_get_connection_info(connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);
  auto* session = static_cast<gnutls_session_t>(info->tls_session);
  unsigned char purpose[] = GNUTLS_KP_TLS_WWW_CLIENT;
  gnutls_typed_vdata_st wanted{GNUTLS_DT_KEY_PURPOSE_OID, purpose, 0};
  unsigned status = 0;
  const int error = gnutls_certificate_verify_peers(session, &wanted, 1, &status);
  if (error == GNUTLS_E_SUCCESS && status == 0) return "";
  return error == GNUTLS_E_NO_CERTIFICATE_FOUND
             ? "this coordinator asks for a client certificate (--tls-client-ca)"
             : "the client certificate is not one that --tls-client-ca vouches for";
}

bool HttpServer::Respond(MHD_Connection* connection, const HttpResponse& response) {
  // The library copies the body before it returns, but declares it as one that may change.
  MHD_Response* out = MHD_create_response_from_buffer(
      response.body.size(), const_cast<char*>(response.body.data()), MHD_RESPMEM_MUST_COPY);
  if (out == nullptr) return false;
  for (const auto& [name, value] : kHeaders) MHD_add_response_header(out, name, value);
  MHD_add_response_header(out, "Content-Type", response.content_type.c_str());
  for (const auto& [name, value] : response.headers) {
    MHD_add_response_header(out, name.c_str(), value.c_str());
  }
  {
    // So that a connection seldom ends in the midst of an answer.
    const std::lock_guard lock(mutex_);
    const auto found = connections_.find(connection);
    const bool old = found == connections_.end() ||
                     Uptime() - found->second.since > options_.connection_seconds / 2;
    if (old || stopping_) MHD_add_response_header(out, "Connection", "close");
  }
  const bool queued =
      MHD_queue_response(connection, static_cast<unsigned>(response.status), out) == MHD_YES;
  MHD_destroy_response(out);
  return queued;
}

void HttpServer::Dispatch(MHD_Connection* connection, Exchange* exchange) {
  exchange->dispatched = true;
  bool refused = false;
  {
    const std::lock_guard lock(mutex_);
    refused = stopping_;
    if (!refused) ++owed_;
  }
  MHD_suspend_connection(connection);
  if (refused) {
    exchange->render = [] { return PlainError(503, "the coordinator is stopping"); };
    MHD_resume_connection(connection);
    return;
  }
  handler_(std::move(exchange->request), [this, connection, exchange](Render render) {
    exchange->render = std::move(render);
    MHD_resume_connection(connection);
    // From here on the exchange may be gone.
    const std::lock_guard lock(mutex_);
    --owed_;
    changed_.notify_all();
  });
}

void HttpServer::Opened(MHD_Connection* connection) {
  const MHD_ConnectionInfo* info =
      MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
  const std::lock_guard lock(mutex_);
  connections_[connection] = {info->connect_fd, Uptime()};
}

void HttpServer::Closed(MHD_Connection* connection) {
  const std::lock_guard lock(mutex_);
  connections_.erase(connection);
}

// ---- On a thread of its own ----

void HttpServer::EndOldConnections() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    changed_.wait_for(lock, std::chrono::seconds(1), [this] { return stopping_; });
    const double uptime = Uptime();
    for (auto& [connection, open] : connections_) {
      if (open.socket < 0 || uptime - open.since < options_.connection_seconds) continue;
      // The library sees the end of what it reads or writes, and closes it. It does so only after
      // it has called Closed, so that the number is still this connection's.
      shutdown(open.socket, SHUT_RDWR);
      open.socket = -1;
    }
  }
}

}  // namespace swinfleet::coordinator
