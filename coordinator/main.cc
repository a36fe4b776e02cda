// swinfleet-coordinator: keeps the queue of jobs and brings them to fleets of workers.
#include <glog/logging.h>
#include <google/protobuf/stubs/logging.h>
#include <signal.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/backup.h"
#include "coordinator/check_limits.h"
#include "coordinator/program_exit.h"
#include "coordinator/server.h"
#include "coordinator/token_commands.h"
#include "proto/roots.h"

namespace swinfleet::coordinator {
namespace {

constexpr uint64_t kMib = 1 << 20;
constexpr uint64_t kDefaultLogMib = LogStore::Limits().bytes_per_job / kMib;

struct Arguments {
  ServerOptions server;
  std::string listen = "127.0.0.1:7077";
  std::string http;
  bool insecure = false;
  uint64_t log_mib = kDefaultLogMib;
  BackupOptions backup;
  // A command in place of serving.
  std::function<int()> command;
};

void DeclareSecurity(CLI::App* app, ServerOptions* server) {
  app->add_option("--tls-cert", server->tls.certificate,
                  "Use TLS, with this certificate and those of its issuers behind it (PEM)")
      ->envname("SWINFLEET_COORDINATOR_TLS_CERT")
      ->type_name("FILE");
  app->add_option("--tls-key", server->tls.key,
                  "The key of --tls-cert (PEM), which nobody else may read")
      ->envname("SWINFLEET_COORDINATOR_TLS_KEY")
      ->type_name("FILE");
  app->add_option("--tls-client-ca", server->tls.client_ca,
                  "Let in only who has a certificate signed by one of these authorities (PEM)")
      ->envname("SWINFLEET_COORDINATOR_TLS_CLIENT_CA")
      ->type_name("FILE");
  app->add_option("--run-root", server->settings.roots.run,
                  "Jobs write below this folder only: run_dir, parallel.offload_dir. May be "
                  "repeated; workers resolve symbolic links [anywhere]")
      ->allow_extra_args(false)
      ->type_name("DIR");
  app->add_option("--data-root", server->settings.roots.data,
                  "Jobs read their data from below this folder only: data.path, and with "
                  "--run-root model.init_from. May be repeated [anywhere]")
      ->allow_extra_args(false)
      ->type_name("DIR");
}

void DeclareHttp(CLI::App* app, Arguments* arguments) {
  ServerOptions& server = arguments->server;
  app->add_option("--http", arguments->http,
                  "Show a web page, /metrics for Prometheus and a JSON interface at HOST:PORT, "
                  "under the same rules and with the same certificate as --listen; port 0 takes a "
                  "free one [nowhere]")
      ->type_name("HOST:PORT");
  app->add_option("--http-name", server.http_names,
                  "A host's name by which browsers may ask while there are no tokens; may be "
                  "repeated [addresses and localhost]")
      ->allow_extra_args(false)
      ->type_name("NAME");
  app->add_option("--http-port-file", server.http_port_file,
                  "Write the port of --http to this file once it is open");
  app->add_option("--max-http-connections", server.max_http_connections,
                  "Connections to --http at once; a host may have half of them")
      ->check(CLI::Range(2, 900))
      ->capture_default_str();
}

void DeclareLimits(CLI::App* app, Arguments* arguments) {
  ServerOptions& server = arguments->server;
  app->add_option("--max-message-bytes", server.max_message_bytes,
                  "Bytes of a message that is taken from a peer")
      ->check(CLI::Range(64 << 10, 64 << 20))
      ->capture_default_str();
  app->add_option("--max-request-rate", server.requests_per_second,
                  "Requests a second of a user, a fleet's token or (without tokens) a host, on "
                  "average; four seconds' worth may come at once. 0: any number")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app->add_option("--max-open-jobs", server.settings.max_open_jobs, "Jobs that may wait or run")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  app->add_option("--max-workers", server.settings.max_workers,
                  "Ranks that may be connected at once")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  app->add_option("--max-watchers", server.settings.max_watchers,
                  "Jobs that may be watched at once")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  app->add_option("--max-log-lines", server.log_limits.lines_per_job,
                  "Lines that are kept of a job's log; older ones are dropped")
      ->check(CLI::Range(uint64_t{100}, uint64_t{100000000}))
      ->capture_default_str();
  app->add_option("--max-log-mib", arguments->log_mib,
                  "MiB that are kept of a job's log; older lines are dropped")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
}

int Backup(BackupOptions options, const std::string& store) {
  options.store = store;
  if (grpc::Status status = BackUp(options); !status.ok()) {
    return Fail(status.error_message(), kExitStore);
  }
  printf("%s\n", options.file.c_str());
  return 0;
}

void DeclareBackup(CLI::App* app, Arguments* arguments) {
  CLI::App* backup = app->add_subcommand(
      "backup", "Write the jobs of a store to a file, also while a coordinator is at work on it");
  backup->add_option("FILE", arguments->backup.file, "The new file")->required();
  backup->add_flag("--force", arguments->backup.replace, "Replace the file if it exists");
  backup->fallthrough();
  backup->callback([arguments] {
    arguments->command = [arguments] { return Backup(arguments->backup, arguments->server.store); };
  });
}

void Declare(CLI::App* app, Arguments* arguments) {
  ServerOptions& server = arguments->server;
  server.store = DefaultStoreFolder();
  app->add_option("--listen", arguments->listen, "HOST:PORT to listen on; port 0 takes a free one")
      ->capture_default_str();
  app->add_flag("--insecure", arguments->insecure,
                "Allow an address that other machines can reach without TLS; and as long as there "
                "are no tokens, let everyone who reaches the port submit and cancel jobs");
  app->add_option("--store", server.store,
                  "Folder of the queue, on a local disk; made if it is missing")
      ->capture_default_str();
  app->add_option("--port-file", server.port_file, "Write the port to this file once it is open");
  app->add_option("--lost-after", server.settings.lost_after,
                  "Seconds of silence after which a rank is named lost")
      ->check(CLI::Range(0.1, 86400.0))
      ->capture_default_str();
  app->add_option("--heartbeat", server.settings.heartbeat,
                  "Seconds between two heartbeats of a rank")
      ->check(CLI::Range(0.05, 3600.0))
      ->capture_default_str();
  app->add_option(
         "--patience", server.settings.patience,
         "Seconds for which a job waits for a free fleet with all of its ranks, before it "
         "goes on with fewer (schedule.min_ranks) or has a job of lower priority make room")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  app->add_option("--max-user-ranks", server.settings.max_user_ranks,
                  "Ranks that the jobs of a user may take at once; 0: any number. Without tokens, "
                  "users are who they say they are")
      ->capture_default_str();
  app->add_option("--max-user-jobs", server.settings.max_user_jobs,
                  "Jobs of a user that may wait or run; 0: any number")
      ->capture_default_str();
  app->add_option(
         "--host-failures", server.settings.host_failures,
         "Failures of a host, within about an hour, after which fleets are started without "
         "it for a while; 0: they never are")
      ->capture_default_str();
  app->add_option("--check-timeout", server.admission.seconds,
                  "Seconds that `swinfleet-plan --check` may take for a job that is submitted; a "
                  "job that takes longer is refused")
      ->check(CLI::Range(0.1, static_cast<double>(kMaxCheckSeconds)))
      ->capture_default_str();
  DeclareSecurity(app, &server);
  DeclareHttp(app, arguments);
  DeclareLimits(app, arguments);
  app->require_subcommand(0, 1);
  DeclareTokenCommands(app, &server.store, &arguments->command);
  DeclareBackup(app, arguments);
}

int Usage(const std::string& fault) { return Fail(fault, kExitUsage); }

std::string NormalRoots(const std::string& option, std::vector<std::string>* roots) {
  for (std::string& root : *roots) {
    const std::string normal = NormalPath(root);
    if (normal.empty()) return option + " " + root + " must be an absolute path";
    root = normal;
  }
  return "";
}

// Whether only this machine reaches the address. Returns what is wrong, with what to do.
std::string CheckReach(const std::string& option, const ListenAddress& address,
                       const Arguments& arguments, bool* loopback) {
  const std::string fault = CheckLoopback(address, loopback);
  if (!fault.empty()) return option + " " + fault;
  const bool plain = !*loopback && arguments.server.tls.empty();
  if (plain && !arguments.insecure) {
    return option + " " + address.ToString() +
           " can be reached by other machines, and without TLS everybody on the way can read and "
           "change what is said; give --tls-cert FILE and --tls-key FILE (docs/security.md), or "
           "--insecure if the network is trusted";
  }
  LOG_IF(WARNING, plain) << "no TLS: what is said at " << address.ToString()
                         << " can be read and changed on the way, and tokens are refused there";
  return "";
}

// As above.
std::string CheckSecurity(Arguments* arguments) {
  ServerOptions& server = arguments->server;
  server.log_limits.bytes_per_job = arguments->log_mib * kMib;
  std::string fault = NormalRoots("--run-root", &server.settings.roots.run);
  if (fault.empty()) fault = NormalRoots("--data-root", &server.settings.roots.data);
  std::shared_ptr<grpc::ServerCredentials> credentials;
  if (fault.empty()) fault = MakeServerCredentials(server.tls, &credentials);
  if (!fault.empty()) return fault;
  bool loopback = false;
  fault = CheckReach("--listen", server.listen, *arguments, &loopback);
  bool http_loopback = true;
  if (fault.empty() && server.http) {
    fault = CheckReach("--http", *server.http, *arguments, &http_loopback);
  }
  if (!fault.empty()) return fault;
  server.open_without_tokens = (loopback && http_loopback) || arguments->insecure;
  return "";
}

// 0, or the exit code after having said what is wrong.
int CheckArguments(Arguments* arguments) {
  const Settings& settings = arguments->server.settings;
  if (settings.lost_after <= settings.heartbeat) {
    return Usage("--lost-after must be more than --heartbeat");
  }
  std::string fault = ParseListenAddress(arguments->listen, &arguments->server.listen);
  if (!fault.empty()) return Usage("--listen " + fault);
  if (!arguments->http.empty()) {
    ListenAddress http;
    fault = ParseListenAddress(arguments->http, &http);
    if (!fault.empty()) return Usage("--http " + fault);
    arguments->server.http = http;
  } else if (!arguments->server.http_names.empty() || !arguments->server.http_port_file.empty()) {
    return Usage("--http-name and --http-port-file are of no use without --http HOST:PORT");
  }
  fault = CheckSecurity(arguments);
  return fault.empty() ? 0 : Usage(fault);
}

// Each rank has a connection, and many systems allow 1024 files unless a program asks for more.
void RaiseFileLimit() {
  rlimit files = {};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return;
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
}

int Serve(const ServerOptions& options, const sigset_t& signals) {
  std::unique_ptr<Server> server;
  if (grpc::Status status = Server::OpenStore(options, &server); !status.ok()) {
    return Fail(status.error_message(), kExitStore);
  }
  if (grpc::Status status = server->Listen(); !status.ok()) {
    return Fail(status.error_message(), kExitRuntime);
  }
  printf("swinfleet-coordinator listens on %s\n", server->address().ToString().c_str());
  fflush(stdout);
  LOG(INFO) << "listens on " << server->address().ToString();
  if (server->http_address()) {
    LOG(INFO) << "web page and metrics: http" << (options.tls.empty() ? "" : "s") << "://"
              << server->http_address()->ToString() << "/";
  }
  int signal = 0;
  sigwait(&signals, &signal);
  LOG(INFO) << "stops, because of " << strsignal(signal);
  server->Stop();
  LOG(INFO) << "stopped";
  return 0;
}

// Protobuf has a line for each text that is not UTF-8: whoever sends many must not fill the log.
void LogOfProtobuf(google::protobuf::LogLevel, const char*, int, const std::string& message) {
  LOG_EVERY_T(WARNING, 10) << "a message was refused: " << message;
}

int Main(int argc, char** argv) {
  google::InitGoogleLogging(argv[0]);
  FLAGS_logtostderr = true;
  google::protobuf::SetLogHandler(&LogOfProtobuf);
  // A limit on the size of files is then an error of the write, like a full disk.
  signal(SIGXFSZ, SIG_IGN);
  signal(SIGPIPE, SIG_IGN);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  CLI::App app("Keeps the queue of jobs and brings them to fleets of workers.",
               "swinfleet-coordinator");
  Arguments arguments;
  Declare(&app, &arguments);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  if (arguments.server.store.empty()) return Usage("--store is empty");
  if (arguments.command) return arguments.command();
  // Before any thread is made, so that none of them takes the signals.
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  if (const int code = CheckArguments(&arguments); code != 0) return code;
  RaiseFileLimit();
  return Serve(arguments.server, signals);
}

}  // namespace
}  // namespace swinfleet::coordinator

int main(int argc, char** argv) { return swinfleet::coordinator::Main(argc, argv); }
