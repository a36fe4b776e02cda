#include "coordinator/cli/app.h"

#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "coordinator/cli/client.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/exit_codes.h"
#include "coordinator/cli/programs.h"
#include "coordinator/cli/trace.h"
#include "coordinator/cli/up.h"
#include "coordinator/supervisor/escape.h"
#include "coordinator/supervisor/process.h"
#include "coordinator/supervisor/record.h"
#include "proto/coordinator.pb.h"
#include "proto/text.h"

namespace swinfleet {
namespace {

constexpr char kDefaultCoordinator[] = "127.0.0.1:7077";

constexpr char kFooter[] =
    "Any other NAME runs the program swinfleet-NAME beside this one or in PATH, with the\n"
    "arguments that follow: swinfleet plan --check JOB.yaml, swinfleet export, swinfleet import,\n"
    "swinfleet eval, swinfleet predict, swinfleet bench.\n"
    "\n"
    "Exit codes: 0 done (watch, submit --watch: the job succeeded); 1 the job failed (trace: a "
    "rank\n"
    "has none); 2 bad usage or job file; 3 the coordinator can't be reached; 4 no such job or\n"
    "fleet; 5 refused by the coordinator; 6 the job was cancelled; 130 interrupted (a watched job\n"
    "goes on).\n"
    "\n"
    "With --json each answer is one JSON document on one line (watch and logs: one a line), with\n"
    "the field names of proto/coordinator.proto and 64-bit integers as strings.";

constexpr char kFleetFooter[] =
    "Usage: swinfleet fleet [OPTIONS] -- mpirun ... swinfleet-worker ...\n"
    "\n"
    "The command must end in the worker's arguments, because --fleet NAME --launch-id UUID\n"
    "--supervised is appended to it:\n"
    "  swinfleet fleet --name gpu -- mpirun -np 8 swinfleet-worker --coordinator HOST:PORT\n"
    "It is started again with back-off when it ends, but not when it ends with 0 (the workers "
    "were\n"
    "told to shut down). Its output goes to STATE-DIR/NAME.log and is copied to standard output.\n"
    "--tls-ca, --tls-cert, --tls-key and --token-file are handed on to the workers, where the "
    "command\n"
    "does not have them itself; the files need the same paths on their hosts.\n"
    "SIGTERM or Ctrl-C ends it: its job saves a checkpoint at its next step and waits for its "
    "turn\n"
    "again, and the workers end (--save-grace). What is left then gets SIGTERM, and after --grace\n"
    "SIGKILL; a second signal kills at once. A supervisor that is killed leaves it running; the\n"
    "next supervisor of the same name adopts it. Under systemd that needs KillMode=process. What\n"
    "is left of a killed launch on this host is killed by its launch id; workers on other hosts "
    "are ended there by Open MPI's daemon when its connection is lost.";

// Everything that the command line can set.
struct Arguments {
  CommonOptions common;
  SubmitOptions submit;
  TraceOptions trace;
  SupervisorOptions fleet;
  UpOptions up;
  std::string job;
  std::string fleet_name;
  std::string help_topic;
  std::vector<std::string> states;
  uint32_t limit = 0;
  bool follow = false;
  std::function<int()> action;
};

void AddCommon(CLI::App* command, Arguments* arguments, bool with_json) {
  command
      ->add_option("--coordinator", arguments->common.coordinator,
                   "The coordinator's HOST:PORT [$SWINFLEET_COORDINATOR, else " +
                       std::string(kDefaultCoordinator) + "]")
      ->type_name("HOST:PORT");
  for (const ConnectionFlag& flag : kConnectionFlags) {
    command->add_option(flag.flag, arguments->common.connection.*flag.file, flag.help)
        ->type_name("FILE");
  }
  if (with_json) command->add_flag("--json", arguments->common.json, "Answer in JSON");
}

// The range is in the message of a refusal, not in the help.
CLI::Validator Within(double low, double high) { return CLI::Range(low, high).description(""); }

void AddJobCommand(CLI::App* app, Arguments* arguments, const std::string& name,
                   const std::string& what,
                   const std::function<int(const CommonOptions&, const std::string&)>& run) {
  CLI::App* command = app->add_subcommand(name, what);
  command->add_option("JOB", arguments->job, "The job's id, as `submit` and `list` give it")
      ->required();
  AddCommon(command, arguments, true);
  command->callback(
      [=] { arguments->action = [=] { return run(arguments->common, arguments->job); }; });
}

void AddTrace(CLI::App* app, Arguments* arguments) {
  AddJobCommand(app, arguments, "trace",
                "Record the next steps of a running job's ranks as a Chrome trace",
                [=](const CommonOptions& common, const std::string& job) {
                  arguments->trace.job_id = job;
                  return RecordTrace(common, arguments->trace);
                });
  CLI::App* trace = app->get_subcommand("trace");
  trace
      ->add_option("--rank", arguments->trace.ranks,
                   "This rank (may be repeated) [all, if they are no more than 64]")
      ->type_name("N");
  trace->add_option("--steps", arguments->trace.steps, "So many whole steps, at most 20 [1]")
      ->check(Within(1, 20))
      ->type_name("N");
  trace
      ->add_option("--output", arguments->trace.output,
                   "Join the ranks' files into this one, where the run folder can be seen")
      ->type_name("FILE");
}

void AddJobCommands(CLI::App* app, Arguments* arguments) {
  CLI::App* submit = app->add_subcommand("submit", "Submit a job; prints its id");
  submit->add_option("FILE", arguments->submit.job_file, "The job file (YAML)")->required();
  submit->add_flag("--watch", arguments->submit.watch, "Watch the job to its end");
  submit
      ->add_option("--wait", arguments->submit.wait_seconds,
                   "Keep trying for this long while no coordinator answers")
      ->check(Within(0.0, 1e9))
      ->type_name("SECONDS");
  AddCommon(submit, arguments, true);
  submit->callback(
      [=] { arguments->action = [=] { return Submit(arguments->common, arguments->submit); }; });

  AddJobCommand(app, arguments, "status", "Show a job", &ShowStatus);
  AddJobCommand(app, arguments, "watch", "Follow a job to its end", &Watch);

  CLI::App* list = app->add_subcommand("list", "List jobs, newest first");
  std::vector<std::string> names;
  for (int i = 1; i < JobState_descriptor()->value_count(); ++i) {
    names.push_back(JobState_descriptor()->value(i)->name());
  }
  list->add_option("--state", arguments->states, "Only jobs in this state (may be repeated)")
      ->transform(CLI::IsMember(names, CLI::ignore_case))
      ->type_name("STATE");
  list->add_option("--limit", arguments->limit, "At most so many [100]")->type_name("N");
  AddCommon(list, arguments, true);
  list->callback([=] {
    arguments->action = [=] {
      return ListJobs(arguments->common, arguments->states, arguments->limit);
    };
  });

  AddJobCommand(app, arguments, "logs", "Show a job's log lines",
                [=](const CommonOptions& common, const std::string& job) {
                  return Logs(common, job, arguments->follow);
                });
  app->get_subcommand("logs")->add_flag("--follow,-f", arguments->follow,
                                        "Wait for more until the job has ended");
  AddJobCommand(app, arguments, "cancel", "Cancel a job", &Cancel);
  AddTrace(app, arguments);
}

void AddFleetCommands(CLI::App* app, Arguments* arguments) {
  CLI::App* fleets = app->add_subcommand("fleets", "List fleets and their ranks");
  AddCommon(fleets, arguments, true);
  fleets->callback([=] { arguments->action = [=] { return ListFleets(arguments->common); }; });

  CLI::App* fence = app->add_subcommand(
      "fence", "Declare that nothing of a fleet's launch runs any more, so that its job can go on");
  fence->add_option("FLEET", arguments->fleet_name, "The fleet's name")->required();
  AddCommon(fence, arguments, true);
  fence->callback(
      [=] { arguments->action = [=] { return Fence(arguments->common, arguments->fleet_name); }; });

  CLI::App* fleet =
      app->add_subcommand("fleet", "Start a fleet (-- mpirun ...) and keep it running");
  fleet->footer(kFleetFooter);
  fleet->add_option("--name", arguments->fleet.fleet, "The fleet's name [this host's name]")
      ->type_name("NAME");
  fleet
      ->add_option("--state-dir", arguments->fleet.state_folder,
                   "Folder of the record, on a local disk [~/.local/state/swinfleet/fleets]")
      ->type_name("DIR");
  fleet->add_option("--max-restarts", arguments->fleet.max_restarts, "Give up after so many")
      ->check(Within(0, 1e9))
      ->type_name("N");
  fleet
      ->add_option("--backoff", arguments->fleet.backoff_seconds,
                   "First pause before a restart; doubles up to 60 [1]")
      ->check(Within(0.01, 3600.0))
      ->type_name("SECONDS");
  fleet
      ->add_option("--save-grace", arguments->fleet.save_seconds,
                   "What its job may take to save a checkpoint when the fleet is ended [120]")
      ->check(Within(0.0, 86400.0))
      ->type_name("SECONDS");
  fleet
      ->add_option("--grace", arguments->fleet.grace_seconds,
                   "Afterwards, from SIGTERM to SIGKILL [10]")
      ->check(Within(0.0, 3600.0))
      ->type_name("SECONDS");
  fleet
      ->add_option("--max-idle", arguments->fleet.max_idle_seconds,
                   "End when there was no job for so long; 0: never [0]")
      ->check(Within(0.0, 1e9))
      ->type_name("SECONDS");
  fleet->add_flag("--earlier-is-gone", arguments->fleet.earlier_is_gone,
                  "No earlier launch of this fleet runs any more, on any host (for batch systems)");
  AddCommon(fleet, arguments, false);
  fleet->callback(
      [=] { arguments->action = [=] { return RunFleet(arguments->common, arguments->fleet); }; });
}

void AddUp(CLI::App* app, Arguments* arguments) {
  CLI::App* up =
      app->add_subcommand("up", "Run a coordinator and a fleet on this machine, until Ctrl-C");
  up->add_option("--dir", arguments->up.folder,
                 "Folder of the store and the logs, on a local disk [~/.local/state/swinfleet/up]")
      ->type_name("DIR");
  up->add_option("--ranks", arguments->up.ranks, "Ranks of the fleet [1]")
      ->check(Within(1, 16384))
      ->type_name("N");
  up->add_option("--name", arguments->up.fleet, "The fleet's name [local]")->type_name("NAME");
  up->add_option("--port", arguments->up.port, "On loopback; 0 takes a free one [7077]")
      ->check(Within(0, 65535))
      ->type_name("PORT");
  up->callback([=] {
    arguments->action = [=] {
      if (arguments->up.folder.empty()) arguments->up.folder = DefaultUpFolder();
      return RunUp(arguments->up);
    };
  });
}

std::vector<std::string> BuiltInCommands(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(command->get_name());
  }
  return names;
}

int UsageError(const std::string& what) {
  std::fprintf(stderr, "swinfleet: %s\nTry `swinfleet --help`.\n", EscapeForTerminal(what).c_str());
  return kExitUsage;
}

// `swinfleet NAME ...`: swinfleet-NAME takes this process over.
int RunOtherProgram(const CLI::App& app, char** argv) {
  const std::string name = argv[1];
  const bool plain =
      name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-_") == std::string::npos;
  const std::string program = plain ? FindSibling("swinfleet-" + name) : "";
  if (!program.empty()) {
    std::vector<char*> arguments(argv + 1, argv + 2);
    std::string path = program;
    arguments[0] = path.data();
    for (char** argument = argv + 2; *argument != nullptr; ++argument) {
      arguments.push_back(*argument);
    }
    arguments.push_back(nullptr);
    execv(program.c_str(), arguments.data());
    return UsageError("can't run " + program + ": " + std::strerror(errno));
  }
  std::vector<std::string> known = BuiltInCommands(app);
  for (const std::string& command : SiblingCommands()) known.push_back(command);
  const std::string nearest = NearestWord(name, known);
  return UsageError("there is no command \"" + name + "\", and no program swinfleet-" + name +
                    (nearest.empty() ? "" : "; did you mean \"" + nearest + "\"?"));
}

int Help(CLI::App* app, const std::string& topic) {
  if (topic.empty()) {
    std::fputs(app->help().c_str(), stdout);
    return kExitOk;
  }
  try {
    std::fputs(app->get_subcommand(topic)->help("swinfleet").c_str(), stdout);
    return kExitOk;
  } catch (const CLI::OptionNotFound&) {
  }
  std::string program = FindSibling("swinfleet-" + topic);
  if (topic.find('/') != std::string::npos || program.empty()) {
    return UsageError("there is no command \"" + topic + "\"");
  }
  std::string flag = "--help";
  char* const arguments[] = {program.data(), flag.data(), nullptr};
  execv(program.c_str(), arguments);
  return UsageError("can't run " + program + ": " + std::strerror(errno));
}

// Fills in what the command line left open, and checks what it can't express itself.
int Complete(Arguments* arguments, bool is_fleet) {
  CommonOptions& common = arguments->common;
  if (common.coordinator.empty()) {
    const char* variable = std::getenv("SWINFLEET_COORDINATOR");
    common.coordinator =
        variable != nullptr && variable[0] != '\0' ? variable : kDefaultCoordinator;
  }
  if (!IsValidAddress(common.coordinator)) {
    return UsageError("the coordinator's address must be HOST:PORT, not \"" + common.coordinator +
                      "\"");
  }
  CompleteFromEnvironment(&common.connection);
  const std::string fault =
      Credentials::Read(common.connection, common.coordinator, &common.credentials);
  if (!fault.empty()) return UsageError(fault);
  if (!is_fleet) return kExitOk;
  SupervisorOptions& fleet = arguments->fleet;
  if (fleet.command.empty()) {
    return UsageError(
        "`swinfleet fleet` needs a command: swinfleet fleet -- mpirun ... "
        "swinfleet-worker ...");
  }
  if (fleet.fleet.empty()) fleet.fleet = HostName();
  if (!IsValidFleetName(fleet.fleet)) {
    return UsageError(
        "a fleet's name has at most 64 letters, digits, and ._- after the first, "
        "unlike \"" +
        fleet.fleet + "\"");
  }
  if (fleet.state_folder.empty()) fleet.state_folder = DefaultStateFolder();
  fleet.worker_options = ConnectionArguments(common.connection);
  return kExitOk;
}

// Standard descriptors that the caller has closed would be reused by the files opened here.
void OpenStandardDescriptors() {
  int descriptor;
  do {
    descriptor = open("/dev/null", O_RDWR);
  } while (descriptor >= 0 && descriptor <= STDERR_FILENO);
  if (descriptor > STDERR_FILENO) close(descriptor);
}

int ParseAndRun(CLI::App* app, Arguments* arguments, std::vector<std::string> words) {
  // These speak to no coordinator that the environment names.
  const bool is_local = !words.empty() && (words[0] == "help" || words[0] == "up");
  const bool is_fleet = !words.empty() && words[0] == "fleet";
  if (is_fleet) {
    // What follows the first "--" is the command, word for word.
    const auto mark = std::find(words.begin(), words.end(), "--");
    if (mark != words.end()) {
      arguments->fleet.command.assign(mark + 1, words.end());
      words.erase(mark, words.end());
    }
  }
  // CLI11 takes the words in reverse order.
  std::reverse(words.begin(), words.end());
  try {
    app->parse(words);
  } catch (const CLI::Success& request) {
    // --help or --version; the answer goes to standard output.
    app->exit(request);
    return kExitOk;
  } catch (const CLI::ParseError& error) {
    return UsageError(error.what());
  }
  if (!arguments->action) return UsageError("a command is missing");
  if (is_local) return arguments->action();
  const int complete = Complete(arguments, is_fleet);
  return complete == kExitOk ? arguments->action() : complete;
}

}  // namespace

int RunSwinfleet(int argc, char** argv) {
  OpenStandardDescriptors();
  // Only for the widths of characters; numbers stay as they are everywhere.
  std::setlocale(LC_CTYPE, "");
  CLI::App app("Swinfleet trains Swin Transformers on many machines.", "swinfleet");
  Arguments arguments;
  app.set_version_flag("--version", "swinfleet " SWINFLEET_VERSION);
  app.set_help_flag("--help,-h", "Show what there is to know, and exit");
  app.footer(kFooter);
  app.require_subcommand(0, 1);
  AddJobCommands(&app, &arguments);
  AddFleetCommands(&app, &arguments);
  AddUp(&app, &arguments);
  CLI::App* help = app.add_subcommand("help", "Explain a command");
  help->add_option("COMMAND", arguments.help_topic, "The command to explain");

  if (argc < 2) {
    std::fputs(app.help().c_str(), stderr);
    return kExitUsage;
  }
  const std::string first = argv[1];
  const std::vector<std::string> built_in = BuiltInCommands(app);
  if (first[0] != '-' && std::find(built_in.begin(), built_in.end(), first) == built_in.end()) {
    return RunOtherProgram(app, argv);
  }
  help->callback([&] { arguments.action = [&] { return Help(&app, arguments.help_topic); }; });
  const int code = ParseAndRun(&app, &arguments, {argv + 1, argv + argc});
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  // A reader that has had enough (`| head`) is no failure worth words.
  if (errno != EPIPE) std::fprintf(stderr, "swinfleet: can't write the answer\n");
  return kExitUsage;
}

}  // namespace swinfleet
