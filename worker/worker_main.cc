// swinfleet-worker: one rank. Trains one job file, alone or under mpirun, or serves a coordinator.
#include <glog/logging.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <chrono>
#include <csignal>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/checkpoint/run_checkpoints.h"
#include "core/checkpoint/run_folder.h"
#include "distributed/mpi_runtime.h"
#include "kernels/error.h"
#include "proto/connection.h"
#include "proto/job_yaml.h"
#include "worker/attempt.h"
#include "worker/compute_device.h"
#include "worker/config_from_proto.h"
#include "worker/coordinator_client.h"
#include "worker/exit_codes.h"
#include "worker/job_file.h"
#include "worker/logging.h"
#include "worker/print_reporter.h"
#include "worker/serve.h"
#include "worker/signals.h"
#include "worker/watchdog.h"

namespace swinfleet {
namespace {

// Longer than an orderly end of MPI takes when all ranks end.
constexpr auto kFinalizeGrace = std::chrono::seconds(10);
// How long a dying rank tries to get its last words to the coordinator.
constexpr double kLastWordsSeconds = 3;
// Of ranks that wait past the deadline the first one to leave ends the others: it gives them time
// to save their flight recorders too.
constexpr auto kOthersGrace = std::chrono::seconds(1);

struct Arguments {
  std::string job_file;
  std::string run_dir;
  std::string coordinator;
  ConnectionOptions connection;
  std::string fleet;
  std::string launch_id;
  bool supervised = false;
  // "auto" or "off".
  std::string pin = "auto";
  // "auto", "cpu" or "cuda".
  std::string device = "auto";

  // Of what an attempt is to know, what the command line says.
  void Apply(const ComputeDevice& compute, AttemptOptions* options) const {
    options->pin = pin == "auto";
    options->device = compute.request;
    options->device_text = compute.text;
    options->gpu = compute.gpu.get();
  }
};

// One process needs no MPI at all.
struct World {
  std::unique_ptr<MpiRuntime> mpi;
  int rank() const { return mpi ? mpi->world_rank() : 0; }
  int size() const { return mpi ? mpi->world_size() : 1; }

  std::unique_ptr<Communicator> All() const { return mpi ? mpi->World() : MakeSelfCommunicator(); }
  std::unique_ptr<Communicator> Group(int ranks, int tag) const {
    return mpi ? mpi->Group(ranks, tag) : MakeSelfCommunicator();
  }
};

// Leaves without the other ranks' consent: mpirun ends those that are left. No destructors run, for
// they would wait for the others. Where several threads come here the first one's code counts, also
// if `before` makes the others come.
[[noreturn]] void EndAtOnce(
    int code, const std::function<void()>& before = [] {}) {
  static std::mutex ending;
  ending.lock();
  before();
  google::FlushLogFiles(google::GLOG_INFO);
  _exit(code);
}

// MPI ends on all ranks together. Where the others don't end, this rank does not wait for ever.
void Finalize(World* world, int code) {
  if (!world->mpi) return;
  std::thread([code] {
    std::this_thread::sleep_for(kFinalizeGrace);
    EndAtOnce(code);
  }).detach();
  world->mpi.reset();
}

int ExitCodeOf(const AttemptResult& result) {
  switch (result.outcome) {
    case Outcome::kSucceeded:
      return kExitSuccess;
    case Outcome::kFailed:
      return kExitFailed;
    case Outcome::kCancelled:
      return kExitCancelled;
    case Outcome::kStopped:
      return kExitStopped;
  }
  return kExitFailed;
}

void LogResult(const JobConfig& config, const AttemptResult& result) {
  if (result.outcome == Outcome::kSucceeded) {
    LOG(INFO) << "done: " << ProgressLine(result.progress);
  } else if (result.outcome == Outcome::kFailed) {
    LOG(ERROR) << "failed: " << result.message;
  } else {
    LOG(WARNING) << "cancelled at step " << result.progress.step
                 << "; the same command goes on from there";
  }
  LOG(INFO) << "run folder " << config.run_dir << ", last checkpoint "
            << (result.last_checkpoint.empty() ? "none" : result.last_checkpoint);
}

std::string StuckText(const StuckNews& news) {
  return news.text + ". " +
         (news.flight_recorder.empty()
              ? ""
              : "Its last collectives are in " + news.flight_recorder + ". ") +
         "This process ends, and the whole mpirun with it";
}

// ---- A job file, no coordinator ----

// The number of this attempt at the run: rank 0's finding, on all ranks.
int64_t ChooseAttempt(const std::string& run_dir, Communicator* communicator) {
  const std::string mine = communicator->rank() == 0 ? std::to_string(NextAttempt(run_dir)) : "";
  return std::stoll(communicator->AllGatherText(mine, "attempt").at(0));
}

// The job that the file describes, or what is wrong with it, on stderr of rank 0.
std::optional<AttemptOptions> ReadJob(const Arguments& arguments, const World& world) {
  JobSpec spec;
  AttemptOptions options;
  std::vector<std::string> warnings;
  std::vector<std::string> problems = LoadLocalJobFile(
      arguments.job_file, arguments.run_dir, world.size(), &spec, &options.config, &warnings);
  const int64_t wanted = options.config.parallel.ranks;
  if (problems.empty() && wanted != 0 && wanted != world.size()) {
    problems.push_back(arguments.job_file + ": parallel.ranks is " + std::to_string(wanted) +
                       ", but there are " + std::to_string(world.size()) +
                       " ranks; start it with mpirun -np " + std::to_string(wanted) +
                       ", or leave parallel.ranks out");
  }
  if (!problems.empty()) {
    // Another rank may have a problem of its own, such as a file that its host lacks.
    if (world.rank() == 0) {
      std::cerr << JoinLines(problems) << std::endl;
    } else {
      LOG(ERROR) << JoinLines(problems);
    }
    return std::nullopt;
  }
  for (const std::string& warning : warnings) LOG_IF(WARNING, world.rank() == 0) << warning;
  options.spec_text = JobToYaml(spec);
  options.identity_text = IdentityText(spec);
  options.job_id = kLocalJobId;
  return options;
}

int RunJobFile(const Arguments& arguments, const ComputeDevice& compute, World* world,
               SignalWatcher* signals) {
  std::optional<AttemptOptions> options = ReadJob(arguments, *world);
  if (!options) return kExitUsage;
  arguments.Apply(compute, &*options);
  PrintReporter reporter;
  signals->Start([&reporter](int) { reporter.Cancel(); });
  AttemptResult result;
  try {
    const std::unique_ptr<Communicator> communicator = world->All();
    options->attempt = ChooseAttempt(options->config.run_dir, communicator.get());
    WatchdogOptions watch;
    watch.run_dir = options->config.run_dir;
    watch.attempt = options->attempt;
    watch.rank = world->rank();
    watch.on_stuck = [](const StuckNews& news) {
      LOG(ERROR) << StuckText(news) << "; the same command goes on from the last checkpoint";
      std::this_thread::sleep_for(kOthersGrace);
      EndAtOnce(kExitStuck, news.give_up);
    };
    Watchdog watchdog(watch, &reporter);
    watchdog.SetCommunicator(communicator.get());
    result = RunAttempt(*options, communicator.get(), &watchdog);
  } catch (const std::exception& error) {
    LOG(ERROR) << error.what();
    EndAtOnce(kExitFailed);
  }
  signals->Stop();
  if (world->rank() == 0) LogResult(options->config, result);
  return ExitCodeOf(result);
}

// ---- A coordinator ----

std::string HostName() {
  char name[256] = "";
  PCHECK(gethostname(name, sizeof(name) - 1) == 0) << "gethostname";
  return name;
}

std::string DrawUuid() {
  std::ifstream file("/proc/sys/kernel/random/uuid");
  std::string uuid;
  if (!(file >> uuid)) throw Error("cannot read /proc/sys/kernel/random/uuid; use --launch-id");
  return uuid;
}

// Rank 0's choice of what the command line leaves open, on all ranks.
WorkerIdentity MakeIdentity(const Arguments& arguments, const World& world) {
  const std::string mine =
      world.rank() == 0
          ? (arguments.fleet.empty() ? "fleet-" + HostName() : arguments.fleet) + '\n' +
                (arguments.launch_id.empty() ? DrawUuid() : arguments.launch_id)
          : "";
  const std::string chosen = world.All()->AllGatherText(mine, "launch").at(0);
  const size_t cut = chosen.find('\n');
  CHECK_NE(cut, std::string::npos) << chosen;
  WorkerIdentity identity;
  identity.fleet = chosen.substr(0, cut);
  identity.launch_id = chosen.substr(cut + 1);
  identity.rank = static_cast<uint32_t>(world.rank());
  identity.world_size = static_cast<uint32_t>(world.size());
  identity.supervised = arguments.supervised;
  return identity;
}

int ServeCoordinator(const Arguments& arguments, const ComputeDevice& compute, World* world,
                     SignalWatcher* signals) {
  ClientOptions options;
  options.coordinator = arguments.coordinator;
  options.connection = arguments.connection;
  try {
    options.identity = MakeIdentity(arguments, *world);
  } catch (const std::exception& error) {
    LOG(ERROR) << error.what();
    EndAtOnce(kExitFailed);
  }
  CoordinatorClient client(options, [](const std::string&) { EndAtOnce(kExitRejected); });
  signals->Start([&client](int) { client.Stop(); });
  ServeEnvironment environment;
  environment.rank = world->rank();
  environment.world_size = world->size();
  environment.make_group = [world](int ranks, int tag) { return world->Group(ranks, tag); };
  environment.run_attempt = [&](AttemptOptions attempt, Communicator* ranks, Reporter* reporter) {
    arguments.Apply(compute, &attempt);
    return RunAttempt(attempt, ranks, reporter);
  };
  environment.on_stuck = [&client](const StuckNews& news) {
    client.ReportStuck(news);
    LOG(ERROR) << StuckText(news) << "; the job goes on from its last checkpoint";
    client.Flush(kLastWordsSeconds);
    client.Close();
    std::this_thread::sleep_for(kOthersGrace);
    EndAtOnce(kExitStuck, news.give_up);
  };
  int code = kExitSuccess;
  try {
    code = Serve(environment, &client);
  } catch (const std::exception& error) {
    LOG(ERROR) << "rank " << world->rank() << " can't go on: " << error.what();
    client.Flush(kLastWordsSeconds);
    client.Close();
    EndAtOnce(kExitFailed);
  }
  signals->Stop();
  client.Close();
  // The other ranks of the launch may be idle, and would not take part in an orderly end.
  if (code != kExitSuccess) EndAtOnce(code);
  return code;
}

// What this rank computes on, or why not, in the log: then all ranks leave.
std::optional<ComputeDevice> FindDevice(const Arguments& arguments, const World& world) {
  try {
    ComputeDevice compute = TakeDevice(DeviceRequestOf(arguments.device), world.All().get());
    // The ranks' GPUs differ; all of them compute on the CPU for the same reason.
    LOG_IF(INFO, world.rank() == 0 || compute.gpu != nullptr) << "computes on " << compute.text;
    return compute;
  } catch (const Error& error) {
    LOG_IF(ERROR, world.rank() == 0) << error.what();
    return std::nullopt;
  }
}

int Main(const Arguments& arguments) {
  SignalWatcher signals;
  World world;
  try {
    if (MpiRuntime::StartedByLauncher()) world.mpi = std::make_unique<MpiRuntime>();
  } catch (const Error& error) {
    LOG(ERROR) << error.what();
    return kExitFailed;
  }
  if (world.size() > 1) SetLoggedRank(world.rank());
  int code = kExitFailed;
  if (const std::optional<ComputeDevice> compute = FindDevice(arguments, world)) {
    code = arguments.job_file.empty() ? ServeCoordinator(arguments, *compute, &world, &signals)
                                      : RunJobFile(arguments, *compute, &world, &signals);
  }
  Finalize(&world, code);
  return code;
}

// Not empty when the coordinator would refuse such a name of a fleet or launch.
std::string CheckName(const std::string& name) {
  const auto good = [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.' || c == ':';
  };
  if (!name.empty() && name.size() <= 128 && std::all_of(name.begin(), name.end(), good)) return "";
  return "\"" + name + "\" must have 1 to 128 letters, digits and -_.:";
}

// Not empty when `address` can't be one.
std::string CheckAddress(const std::string& address) {
  const size_t colon = address.rfind(':');
  const std::string port = colon == std::string::npos ? "" : address.substr(colon + 1);
  const bool digits = !port.empty() && port.size() <= 5 &&
                      port.find_first_not_of("0123456789") == std::string::npos;
  if (colon == 0 || !digits || std::stoi(port) < 1 || std::stoi(port) > 65535) {
    return "\"" + address + "\" is not HOST:PORT, as in node17:7441";
  }
  return "";
}

}  // namespace
}  // namespace swinfleet

int main(int argc, char** argv) {
  using swinfleet::Arguments;
  swinfleet::InitLogging(argv[0]);
  // A limit on file sizes is to come back as an error of the write, like a full disk.
  std::signal(SIGXFSZ, SIG_IGN);
  Arguments arguments;
  CLI::App app(
      "One rank of training. Without a coordinator it trains the job of a file, alone or under\n"
      "mpirun; with one it waits for jobs. Exit codes: 0 done, 1 failed, 2 wrong arguments or job\n"
      "file, 3 refused by the coordinator, 4 waited for another rank in vain, 130 cancelled, 143 "
      "told to leave while training.");
  app.set_version_flag("--version", SWINFLEET_VERSION);
  CLI::Option* job = app.add_option("--job", arguments.job_file, "Train the job of this YAML file");
  app.add_option("--run-dir", arguments.run_dir, "Run folder instead of the job file's")
      ->needs(job);
  CLI::Option* coordinator =
      app.add_option("--coordinator", arguments.coordinator, "Serve this coordinator, HOST:PORT")
          ->excludes(job)
          ->check(CLI::Validator(swinfleet::CheckAddress, "HOST:PORT"));
  for (const swinfleet::ConnectionFlag& flag : swinfleet::kConnectionFlags) {
    app.add_option(flag.flag, arguments.connection.*flag.file, flag.help)
        ->needs(coordinator)
        ->type_name("FILE");
  }
  const CLI::Validator name(swinfleet::CheckName, "NAME");
  app.add_option("--fleet", arguments.fleet,
                 "Name of the fleet (default: fleet- and the host of rank 0)")
      ->needs(coordinator)
      ->check(name);
  app.add_option("--launch-id", arguments.launch_id, "Unique to this mpirun (default: drawn)")
      ->needs(coordinator)
      ->check(name);
  app.add_flag("--supervised", arguments.supervised, "A supervisor reports the end of this mpirun")
      ->needs(coordinator);
  app.add_option("--pin", arguments.pin,
                 "auto: where ranks of a host share its CPUs, each keeps its threads on a part of\n"
                 "them; off: threads run anywhere")
      ->check(CLI::IsMember({"auto", "off"}))
      ->capture_default_str();
  app.add_option("--device", arguments.device,
                 "What ranks compute on. cuda: each on a GPU of its own; auto: the same where all\n"
                 "ranks can have one, else, as cpu, on the CPU")
      ->check(CLI::IsMember(swinfleet::DeviceRequestTexts()))
      ->capture_default_str();
  try {
    app.parse(argc, argv);
    if (arguments.job_file.empty() && arguments.coordinator.empty()) {
      throw CLI::RequiredError("one of --job and --coordinator");
    }
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? swinfleet::kExitSuccess : swinfleet::kExitUsage;
  }
  if (!arguments.coordinator.empty()) {
    swinfleet::CompleteFromEnvironment(&arguments.connection);
    swinfleet::Credentials credentials;
    const std::string fault =
        swinfleet::Credentials::Read(arguments.connection, arguments.coordinator, &credentials);
    if (!fault.empty()) {
      std::cerr << "swinfleet-worker: " << fault << std::endl;
      return swinfleet::kExitUsage;
    }
  }
  return swinfleet::Main(arguments);
}
