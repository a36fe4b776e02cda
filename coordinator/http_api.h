// What the HTTP server answers: the web page, metrics, and the gRPC service for users once more, in
// JSON (docs/observability.md). Everything but the page itself and /healthz passes the gate.
//
// Against other sites, whose scripts run in the browsers of people who may do things here: tokens
// are taken from the header Authorization alone, which no other site can set, and never from a
// cookie; a request that a browser says comes from another site is refused; changes are POSTs whose
// kind of content a plain form can't send; and while no tokens are asked for, the Host has to be
// one that is known, so that no name of another site that was bound to this address gets in.
#ifndef SWINFLEET_COORDINATOR_HTTP_API_H_
#define SWINFLEET_COORDINATOR_HTTP_API_H_

#include <string>
#include <vector>

#include "coordinator/control_loop.h"
#include "coordinator/gate.h"
#include "coordinator/http_server.h"
#include "coordinator/user_requests.h"

namespace swinfleet::coordinator {

class HttpApi {
 public:
  // All must outlive the object. `names`: hosts under which browsers may ask while no token is
  // asked for; addresses and "localhost" are known without.
  HttpApi(UserRequests* requests, ControlLoop* control, Gate* gate, std::vector<std::string> names)
      : requests_(requests), control_(control), gate_(gate), names_(std::move(names)) {}

  // HttpServer::Handler.
  void Handle(const HttpRequest& request, const HttpServer::Answer& answer);

 private:
  // Why the request may come from another site; empty: it does not.
  std::string CrossSiteFault(const HttpRequest& request) const;
  bool KnownHost(const std::string& host) const;
  void Metrics(const HttpRequest& request, const HttpServer::Answer& answer);
  void Health(const HttpServer::Answer& answer);
  // `path`: what follows "/api/", in parts.
  void Route(const HttpRequest& request, const std::vector<std::string>& path,
             const HttpServer::Answer& answer);
  void RouteJob(const HttpRequest& request, const std::vector<std::string>& path,
                const HttpServer::Answer& answer);
  void List(const HttpRequest& request, const HttpServer::Answer& answer);
  void Logs(const HttpRequest& request, const std::string& job_id,
            const HttpServer::Answer& answer);
  void Trace(const HttpRequest& request, const std::string& job_id,
             const HttpServer::Answer& answer);
  void Submit(const HttpRequest& request, const HttpServer::Answer& answer);

  UserRequests* const requests_;
  ControlLoop* const control_;
  Gate* const gate_;
  const std::vector<std::string> names_;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_HTTP_API_H_
