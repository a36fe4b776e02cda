// The coordinator as a whole: store, control loop, checks, the services on one port, and on another
// one, if that is wanted, the web page and metrics.
#ifndef SWINFLEET_COORDINATOR_SERVER_H_
#define SWINFLEET_COORDINATOR_SERVER_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/admission.h"
#include "coordinator/control_loop.h"
#include "coordinator/fleet_service.h"
#include "coordinator/gate.h"
#include "coordinator/http_api.h"
#include "coordinator/http_server.h"
#include "coordinator/job_store.h"
#include "coordinator/listen_address.h"
#include "coordinator/log_store.h"
#include "coordinator/store_folder.h"
#include "coordinator/tls.h"
#include "coordinator/user_requests.h"
#include "coordinator/user_service.h"
#include "coordinator/validation.h"

namespace swinfleet::coordinator {

struct ServerOptions {
  // The folder of the store.
  std::string store;
  // Port 0 takes a free one.
  ListenAddress listen{"127.0.0.1", 7077};
  // Where to write the port once it is listened on; empty: nowhere.
  std::string port_file;
  // For both ports.
  TlsFiles tls;
  // Where HTTP is spoken, and as above the file for its port; none: nowhere.
  std::optional<ListenAddress> http;
  std::string http_port_file;
  // Hosts that browsers may call this one by (HttpApi).
  std::vector<std::string> http_names;
  int max_http_connections = HttpOptions().max_connections;
  // Until a token is made, everybody may do everything (access.h).
  bool open_without_tokens = true;
  // Of each user or host; 0: any number.
  double requests_per_second = 1000;
  int max_message_bytes = kMaxMessageBytes;
  Settings settings;
  AdmissionOptions admission;
  FilesystemType filesystem_type = &SystemFilesystemType;
  LogStore::Limits log_limits;
};

class Server {
 public:
  ~Server();

  // The two steps of starting, apart because their failures are told apart by the exit code.
  static grpc::Status OpenStore(const ServerOptions& options, std::unique_ptr<Server>* out);
  grpc::Status Listen();

  // With the port that was chosen.
  const ListenAddress& address() const { return options_.listen; }
  const std::optional<ListenAddress>& http_address() const { return options_.http; }

  // Ends every connection and stops; workers ride it out. Within about a second.
  void Stop();

 private:
  explicit Server(const ServerOptions& options) : options_(options) {}
  grpc::Status OpenGate();
  grpc::Status ListenHttp();

  ServerOptions options_;
  // In the order in which they depend on each other.
  std::unique_ptr<StoreFolder> folder_;
  std::unique_ptr<JobStore> jobs_;
  std::unique_ptr<LogStore> logs_;
  std::unique_ptr<ControlLoop> control_;
  std::unique_ptr<Gate> gate_;
  std::unique_ptr<Admission> admission_;
  std::unique_ptr<UserRequests> user_requests_;
  std::unique_ptr<UserService> user_service_;
  std::unique_ptr<WorkerService> worker_service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<HttpApi> http_api_;
  std::unique_ptr<HttpServer> http_;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_SERVER_H_
