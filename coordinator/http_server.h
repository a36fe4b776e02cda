// HTTP/1.1 with libmicrohttpd, over TLS or not: connections, their limits, and requests as plain
// values. What requests mean is for http_api.h.
#ifndef SWINFLEET_COORDINATOR_HTTP_SERVER_H_
#define SWINFLEET_COORDINATOR_HTTP_SERVER_H_

#include <grpcpp/support/status.h>

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "coordinator/gate.h"
#include "coordinator/listen_address.h"
#include "coordinator/tls.h"

struct MHD_Connection;
struct MHD_Daemon;
struct MHD_Response;

namespace swinfleet::coordinator {

struct HttpRequest {
  // "GET" (also for HEAD) or "POST".
  std::string method;
  // Percent-decoded, without the query.
  std::string path;
  // Names of headers in lower case. Of what is repeated the last counts.
  std::map<std::string, std::string> query;
  std::map<std::string, std::string> headers;
  std::string body;
  Peer peer;

  // Empty if it is not there.
  std::string Header(const std::string& name) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body{};
  std::vector<std::pair<std::string, std::string>> headers{};
};

struct HttpOptions {
  ListenAddress listen;
  TlsFiles tls{};
  // Connections at once; a host may have half of them.
  int max_connections = 128;
  // Of a request.
  size_t max_body_bytes = 1 << 20;
  // A connection ends after this many seconds in any case, and when nothing comes or is taken for
  // `idle_seconds`; so who sends or reads slowly does not keep others out.
  double connection_seconds = 120;
  int idle_seconds = 20;
};

class HttpServer {
 public:
  // Makes the response, on the server's thread.
  using Render = std::function<HttpResponse()>;
  using Answer = std::function<void(Render)>;
  // Takes a request on the server's thread, which it must not hold up; it or somebody else calls
  // the answer, once, on any thread.
  using Handler = std::function<void(HttpRequest request, Answer answer)>;

  // Listens. UNAVAILABLE or INVALID_ARGUMENT with what to do.
  static grpc::Status Start(const HttpOptions& options, Handler handler,
                            std::unique_ptr<HttpServer>* out);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // With the port that was chosen.
  const ListenAddress& address() const { return options_.listen; }

  // Takes no further request, waits for the answers that are owed, and ends every connection.
  void Stop();

 private:
  struct Exchange;
  struct Callbacks;
  struct OpenConnection {
    int socket = -1;
    // Uptime.
    double since = 0;
  };

  HttpServer(HttpOptions options, Handler handler);
  grpc::Status Listen(int socket);
  // ---- On the server's thread ----
  bool Begin(MHD_Connection* connection, Exchange* exchange, const char* version);
  bool Respond(MHD_Connection* connection, const HttpResponse& response);
  void Dispatch(MHD_Connection* connection, Exchange* exchange);
  std::string CertificateFault(MHD_Connection* connection) const;
  void Opened(MHD_Connection* connection);
  void Closed(MHD_Connection* connection);
  // ---- On a thread of its own ----
  void EndOldConnections();

  HttpOptions options_;
  TlsTexts tls_;
  const Handler handler_;
  MHD_Daemon* daemon_ = nullptr;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<MHD_Connection*, OpenConnection> connections_;
  // Answers that are owed.
  int owed_ = 0;
  bool stopping_ = false;
  std::thread clock_;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_HTTP_SERVER_H_
