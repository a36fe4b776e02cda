// Exit codes of `swinfleet`, for scripts. `swinfleet --help` lists them too.
#ifndef SWINFLEET_COORDINATOR_CLI_EXIT_CODES_H_
#define SWINFLEET_COORDINATOR_CLI_EXIT_CODES_H_

namespace swinfleet {

enum ExitCode {
  // Done. Of `watch` and `submit --watch`: the job succeeded.
  kExitOk = 0,
  // The job failed. Of `fleet`: gave up after --max-restarts. Of `trace`: a rank has none.
  kExitJobFailed = 1,
  // Bad usage or a bad job file; nothing was submitted. Also: output that can't be written.
  kExitUsage = 2,
  // The coordinator can't be reached.
  kExitUnreachable = 3,
  // There is no such job or fleet.
  kExitNotFound = 4,
  // The coordinator refused the request; its message is shown.
  kExitRefused = 5,
  // The job was cancelled.
  kExitJobCancelled = 6,
  // Interrupted by Ctrl-C; a watched job goes on.
  kExitInterrupted = 130,
};

}  // namespace swinfleet

#endif  // SWINFLEET_COORDINATOR_CLI_EXIT_CODES_H_
