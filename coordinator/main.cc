// swinfleet-coordinator: keeps the queue of jobs and brings them to fleets of workers.
#include <glog/logging.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>

#include "coordinator/check_limits.h"
#include "coordinator/server.h"

namespace swinfleet::coordinator {
namespace {

constexpr int kExitRuntime = 1;
constexpr int kExitUsage = 2;
constexpr int kExitStore = 3;

struct Arguments {
  ServerOptions server;
  std::string listen = "127.0.0.1:7077";
  bool insecure = false;
};

void Declare(CLI::App* app, Arguments* arguments) {
  ServerOptions& server = arguments->server;
  server.store = DefaultStoreFolder();
  app->add_option("--listen", arguments->listen, "HOST:PORT to listen on; port 0 takes a free one")
      ->capture_default_str();
  app->add_flag("--insecure", arguments->insecure,
                "Allow an address that other machines can reach. There is neither encryption nor "
                "a password: everyone who reaches the port can submit and cancel jobs");
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
                  "Ranks that the jobs of a user may take at once; 0: any number. Users are who "
                  "they say they are")
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
}

int Usage(const std::string& fault) {
  fprintf(stderr, "swinfleet-coordinator: %s\n", fault.c_str());
  return kExitUsage;
}

// 0, or the exit code after having said what is wrong.
int CheckArguments(Arguments* arguments) {
  const Settings& settings = arguments->server.settings;
  if (settings.lost_after <= settings.heartbeat) {
    return Usage("--lost-after must be more than --heartbeat");
  }
  if (arguments->server.store.empty()) return Usage("--store is empty");
  std::string fault = ParseListenAddress(arguments->listen, &arguments->server.listen);
  if (!fault.empty()) return Usage("--listen " + fault);
  bool loopback = false;
  fault = CheckLoopback(arguments->server.listen, &loopback);
  if (!fault.empty()) return Usage("--listen " + fault);
  if (loopback) return 0;
  if (!arguments->insecure) {
    return Usage("--listen " + arguments->listen +
                 " can be reached by other machines, and there is neither encryption nor a "
                 "password; add --insecure if the network is trusted");
  }
  LOG(WARNING) << "no TLS: everyone who reaches " << arguments->listen
               << " can submit and cancel jobs";
  return 0;
}

int Fail(const grpc::Status& status, int code) {
  fprintf(stderr, "swinfleet-coordinator: %s\n", status.error_message().c_str());
  return code;
}

int Serve(const ServerOptions& options, const sigset_t& signals) {
  std::unique_ptr<Server> server;
  if (grpc::Status status = Server::OpenStore(options, &server); !status.ok()) {
    return Fail(status, kExitStore);
  }
  if (grpc::Status status = server->Listen(); !status.ok()) return Fail(status, kExitRuntime);
  printf("swinfleet-coordinator listens on %s\n", server->address().ToString().c_str());
  fflush(stdout);
  LOG(INFO) << "listens on " << server->address().ToString();
  int signal = 0;
  sigwait(&signals, &signal);
  LOG(INFO) << "stops, because of " << strsignal(signal);
  server->Stop();
  LOG(INFO) << "stopped";
  return 0;
}

int Main(int argc, char** argv) {
  google::InitGoogleLogging(argv[0]);
  FLAGS_logtostderr = true;
  // A limit on the size of files is then an error of the write, like a full disk.
  signal(SIGXFSZ, SIG_IGN);
  signal(SIGPIPE, SIG_IGN);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  // Before any thread is made, so that none of them takes the signals.
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  CLI::App app("Keeps the queue of jobs and brings them to fleets of workers.",
               "swinfleet-coordinator");
  Arguments arguments;
  Declare(&app, &arguments);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  if (const int code = CheckArguments(&arguments); code != 0) return code;
  return Serve(arguments.server, signals);
}

}  // namespace
}  // namespace swinfleet::coordinator

int main(int argc, char** argv) { return swinfleet::coordinator::Main(argc, argv); }
