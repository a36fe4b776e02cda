#include "coordinator/server.h"

#include <fcntl.h>
#include <glog/logging.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <utility>

#include "coordinator/clock.h"

namespace swinfleet::coordinator {
namespace {

// Requests and streams at once; a client that has more waits.
constexpr int kMaxStreamsOfConnection = 128;
// Reflection is the one service that takes a thread for each of its streams, and anybody may open
// them; further ones are refused.
constexpr int kMaxReflectionThreads = 8;

// gRPC's own services: health, and reflection. Both answer everybody who can connect: what they say
// is whether this program serves, and what coordinator.proto says.
void AddCommonServices(grpc::ServerBuilder* builder) {
  grpc::ResourceQuota quota;
  quota.SetMaxThreads(kMaxReflectionThreads);
  builder->SetResourceQuota(quota);
  builder->SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
  builder->SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, 1);
}

// Nothing where no file is wanted.
grpc::Status WritePortFile(const std::string& option, const std::string& path, int port) {
  if (path.empty()) return grpc::Status::OK;
  const std::string temporary = path + ".new";
  const std::string text = std::to_string(port) + "\n";
  const int file = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  bool good = file >= 0;
  if (good) {
    good = write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    good = close(file) == 0 && good;
    good = good && rename(temporary.c_str(), path.c_str()) == 0;
  }
  if (good) return grpc::Status::OK;
  const std::string why = strerror(errno);
  unlink(temporary.c_str());
  return {grpc::StatusCode::UNAVAILABLE, "can't write " + option + " " + path + ": " + why};
}

}  // namespace

Server::~Server() { Stop(); }

grpc::Status Server::OpenStore(const ServerOptions& options, std::unique_ptr<Server>* out) {
  std::unique_ptr<Server> server(new Server(options));
  grpc::Status status = StoreFolder::Open(options.store, options.filesystem_type, &server->folder_);
  if (!status.ok()) return status;
  const std::string& path = server->folder_->path();
  status = JobStore::Open(path, &server->jobs_);
  if (status.ok()) status = LogStore::Open(path, options.log_limits, &server->logs_);
  if (status.ok()) status = server->folder_->Sync();
  if (!status.ok()) return status;
  server->control_ =
      std::make_unique<ControlLoop>(server->jobs_.get(), server->logs_.get(), options.settings);
  status = server->control_->Start();
  if (status.ok()) status = server->OpenGate();
  if (!status.ok()) return status;
  LOG(INFO) << "store: " << path;
  *out = std::move(server);
  return status;
}

grpc::Status Server::OpenGate() {
  GateOptions options;
  options.requests_per_second = options_.requests_per_second;
  options.open_without_tokens = options_.open_without_tokens;
  options.tls = !options_.tls.empty();
  options.clock = &UnixTime;
  options.uptime = &Uptime;
  std::unique_ptr<AccessStore> store;
  grpc::Status status = AccessStore::Open(folder_->path(), /*migrate=*/true, &store);
  if (status.ok()) status = Gate::Open(options, std::move(store), control_.get(), &gate_);
  LOG_IF(INFO, status.ok() && gate_->open())
      << "there are no tokens: whoever reaches this coordinator may do everything";
  return status;
}

grpc::Status Server::Listen() {
  std::shared_ptr<grpc::ServerCredentials> credentials;
  if (const std::string fault = MakeServerCredentials(options_.tls, &credentials); !fault.empty()) {
    return {grpc::StatusCode::INVALID_ARGUMENT, fault};
  }
  admission_ = std::make_unique<Admission>(options_.admission);
  user_requests_ = std::make_unique<UserRequests>(control_.get(), admission_.get(), logs_.get(),
                                                  gate_.get(), options_.settings.roots);
  user_service_ = std::make_unique<UserService>(user_requests_.get(), control_.get(), gate_.get());
  worker_service_ = std::make_unique<WorkerService>(control_.get(), gate_.get());

  // Both count for servers that are built afterwards.
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  AddCommonServices(&builder);
  // Otherwise two coordinators on one port would both seem to work.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // A machine that loses its power closes no connection; this finds out.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  // Peers may look after their connections in the same way.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  // Who connects and says nothing is cut off, and so is who has asked for nothing in a while.
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, 300000);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreamsOfConnection);
  builder.SetMaxReceiveMessageSize(options_.max_message_bytes);
  int port = 0;
  builder.AddListeningPort(options_.listen.ToString(), credentials, &port);
  builder.RegisterService(user_service_.get());
  builder.RegisterService(worker_service_.get());
  server_ = builder.BuildAndStart();
  if (server_ == nullptr || port == 0) {
    const std::string why = ProbeListen(options_.listen);
    return {grpc::StatusCode::UNAVAILABLE,
            "can't listen on " + options_.listen.ToString() + ": " +
                (why.empty() ? "gRPC refused it" : why) +
                "; choose another address with --listen, port 0 takes a free one"};
  }
  options_.listen.port = port;
  for (const char* service :
       {Coordinator::service_full_name(), FleetService::service_full_name()}) {
    server_->GetHealthCheckService()->SetServingStatus(service, true);
  }
  const grpc::Status status = ListenHttp();
  return status.ok() ? WritePortFile("--port-file", options_.port_file, port) : status;
}

grpc::Status Server::ListenHttp() {
  if (!options_.http) return grpc::Status::OK;
  http_api_ = std::make_unique<HttpApi>(user_requests_.get(), control_.get(), gate_.get(),
                                        options_.http_names);
  HttpOptions http;
  http.listen = *options_.http;
  http.tls = options_.tls;
  http.max_connections = options_.max_http_connections;
  const auto handle = [api = http_api_.get()](const HttpRequest& request,
                                              const HttpServer::Answer& answer) {
    api->Handle(request, answer);
  };
  const grpc::Status status = HttpServer::Start(http, handle, &http_);
  if (!status.ok()) return status;
  options_.http = http_->address();
  return WritePortFile("--http-port-file", options_.http_port_file, options_.http->port);
}

void Server::Stop() {
  // Before connections end, so that who watches the health hears of it.
  if (server_ != nullptr) server_->GetHealthCheckService()->SetServingStatus(false);
  // The control loop answers requests until the last one is finished.
  if (admission_ != nullptr) admission_->Stop();
  if (control_ != nullptr) control_->Disconnect();
  if (http_ != nullptr) http_->Stop();
  if (server_ != nullptr) {
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
    server_->Wait();
    server_ = nullptr;
  }
  if (control_ != nullptr) control_->Stop();
}

}  // namespace swinfleet::coordinator
