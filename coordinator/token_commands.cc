#include "coordinator/token_commands.h"

#include <fcntl.h>
#include <glog/logging.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "coordinator/access.h"
#include "coordinator/access_store.h"
#include "coordinator/audit.h"
#include "coordinator/clock.h"
#include "coordinator/program_exit.h"
#include "coordinator/store_folder.h"
#include "coordinator/validation.h"

namespace swinfleet::coordinator {
namespace {

using nlohmann::json;

constexpr double kDay = 86400;

struct Options {
  std::string name;
  std::string role;
  double expires_days = 0;
  std::string out;
  uint64_t last = 0;
  bool json = false;
};

// "2026-11-30T00:13:15Z"; "-" for 0.
std::string Time(double seconds) {
  if (seconds == 0) return "-";
  const std::time_t whole = static_cast<std::time_t>(seconds);
  std::tm parts{};
  char text[32] = "";
  if (gmtime_r(&whole, &parts) == nullptr ||
      std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts) == 0) {
    return "?";
  }
  return text;
}

// Opens the store beside a coordinator that has it open, or with the folder's lock held meanwhile.
class OpenStore {
 public:
  explicit OpenStore(const std::string& folder) {
    status_ = StoreFolder::Open(folder, &SystemFilesystemType, &folder_);
    const bool in_use = status_.error_code() == grpc::StatusCode::ALREADY_EXISTS;
    if (status_.ok() || in_use) {
      status_ = AccessStore::Open(folder, /*migrate=*/!in_use, &access_);
    }
  }
  const grpc::Status& status() const { return status_; }
  AccessStore* operator->() { return access_.get(); }

 private:
  std::unique_ptr<StoreFolder> folder_;
  std::unique_ptr<AccessStore> access_;
  grpc::Status status_;
};

AuditEntry Entry(const std::string& action, const std::string& subject) {
  AuditEntry entry;
  const passwd* user = getpwuid(getuid());
  entry.time = UnixTime();
  entry.who = user == nullptr ? std::to_string(getuid()) : user->pw_name;
  entry.role = "operator";
  entry.from = "this machine";
  entry.action = action;
  entry.subject = subject;
  entry.result = "ok";
  return entry;
}

// Into a new file that only this user can read.
std::string WriteSecret(const std::string& path, const std::string& text) {
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file < 0) return "can't make " + path + ": " + std::strerror(errno);
  bool good = fchmod(file, 0600) == 0 &&
              write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  int error = errno;
  if (close(file) != 0 && good) {
    good = false;
    error = errno;
  }
  if (good) return "";
  unlink(path.c_str());
  return "can't write " + path + ": " + std::strerror(error);
}

int AddToken(const std::string& folder, const Options& options) {
  const std::optional<Role> role = ParseRole(options.role);
  if (!role) return Fail("there is no role " + options.role, kExitUsage);
  if (const grpc::Status good = CheckName("token's name", options.name); !good.ok()) {
    return Fail(good.error_message(), kExitUsage);
  }
  OpenStore store(folder);
  if (!store.status().ok()) return Fail(store.status().error_message(), kExitStore);
  const std::string text = NewTokenText();
  if (!options.out.empty()) {
    if (std::string fault = WriteSecret(options.out, text + "\n"); !fault.empty()) {
      return Fail(fault, kExitRuntime);
    }
  }
  Token token;
  token.name = options.name;
  token.role = *role;
  token.hash = HashToken(text);
  token.created_at = UnixTime();
  if (options.expires_days > 0) token.expires_at = token.created_at + options.expires_days * kDay;
  const grpc::Status status = store->AddToken(token, Entry("token add", options.name));
  if (!status.ok()) {
    if (!options.out.empty()) unlink(options.out.c_str());
    return Fail(status.error_message(), kExitRuntime);
  }
  std::fprintf(
      stderr, "the token of %s (%s)%s, for the store %s; it is shown once and kept nowhere else\n",
      options.name.c_str(), RoleName(*role),
      token.expires_at == 0 ? "" : (" until " + Time(token.expires_at)).c_str(), folder.c_str());
  if (options.out.empty()) {
    std::printf("%s\n", text.c_str());
  } else {
    std::fprintf(stderr, "written to %s\n", options.out.c_str());
  }
  return std::fflush(stdout) == 0 ? 0 : kExitRuntime;
}

int RevokeToken(const std::string& folder, const Options& options) {
  OpenStore store(folder);
  if (!store.status().ok()) return Fail(store.status().error_message(), kExitStore);
  const grpc::Status status = store->RevokeToken(options.name, Entry("token revoke", options.name));
  if (!status.ok()) return Fail(status.error_message(), kExitRuntime);
  std::printf("the token of %s is revoked\n", options.name.c_str());
  return 0;
}

std::string StateOf(const Token& token, double now) {
  if (token.revoked_at != 0) return "revoked";
  return token.expires_at != 0 && now >= token.expires_at ? "expired" : "valid";
}

int ListTokens(const std::string& folder, const Options& options) {
  OpenStore store(folder);
  if (!store.status().ok()) return Fail(store.status().error_message(), kExitStore);
  std::vector<Token> tokens;
  const grpc::Status status = store->LoadTokens(&tokens);
  if (!status.ok()) return Fail(status.error_message(), kExitStore);
  const double now = UnixTime();
  const char* const format = "%-24s %-10s %-8s %-21s %-21s %s\n";
  if (!options.json) {
    std::printf(format, "NAME", "ROLE", "STATE", "MADE", "EXPIRES", "REVOKED");
  }
  for (const Token& token : tokens) {
    const std::string state = StateOf(token, now);
    if (options.json) {
      const json line = {{"name", token.name},
                         {"role", RoleName(token.role)},
                         {"state", state},
                         {"created_at", token.created_at},
                         {"expires_at", token.expires_at},
                         {"revoked_at", token.revoked_at}};
      std::printf("%s\n", line.dump().c_str());
    } else {
      std::printf(format, token.name.c_str(), RoleName(token.role), state.c_str(),
                  Time(token.created_at).c_str(), Time(token.expires_at).c_str(),
                  Time(token.revoked_at).c_str());
    }
  }
  return 0;
}

void PrintLine(const AuditEntry& entry) {
  const std::string who = entry.who.empty() ? "somebody" : entry.who;
  const std::string times = entry.times == 1 ? "" : " (" + std::to_string(entry.times) + " times)";
  std::printf("%s %s (%s) from %s: %s %s: %s%s\n", Time(entry.time).c_str(), who.c_str(),
              entry.role.c_str(), entry.from.c_str(), entry.action.c_str(), entry.subject.c_str(),
              entry.result.c_str(), times.c_str());
}

void PrintJson(const AuditEntry& entry) {
  const json line = {{"time", entry.time},     {"who", entry.who},       {"role", entry.role},
                     {"from", entry.from},     {"action", entry.action}, {"subject", entry.subject},
                     {"result", entry.result}, {"times", entry.times}};
  std::printf("%s\n", line.dump(-1, ' ', false, json::error_handler_t::replace).c_str());
}

int ShowAudit(const std::string& folder, const Options& options) {
  OpenStore store(folder);
  if (!store.status().ok()) return Fail(store.status().error_message(), kExitStore);
  const grpc::Status status =
      store->ReadAudit(options.last, options.json ? &PrintJson : &PrintLine);
  if (!status.ok()) return Fail(status.error_message(), kExitStore);
  return std::fflush(stdout) == 0 ? 0 : kExitRuntime;
}

}  // namespace

void DeclareTokenCommands(CLI::App* app, const std::string* store, std::function<int()>* action) {
  const auto options = std::make_shared<Options>();
  const auto command = [=](CLI::App* parent, const std::string& name, const std::string& what,
                           int (*run)(const std::string&, const Options&)) {
    CLI::App* sub = parent->add_subcommand(name, what);
    sub->fallthrough();
    sub->callback([=] { *action = [=] { return run(*store, *options); }; });
    return sub;
  };
  CLI::App* token = app->add_subcommand("token", "Tokens of users and fleets (docs/security.md)");
  token->require_subcommand(1);
  token->fallthrough();
  CLI::App* add = command(token, "add", "Make a token and print it, this once", &AddToken);
  add->add_option("NAME", options->name, "Whose it is; jobs belong to this name")->required();
  add->add_option("--role", options->role, "What it allows: viewer, submitter, admin, or fleet")
      ->required()
      ->check(CLI::IsMember({"viewer", "submitter", "admin", "fleet"}));
  add->add_option("--expires", options->expires_days, "Days for which it is valid [for ever]")
      ->check(CLI::Range(1e-6, 36500.0))
      ->type_name("DAYS");
  add->add_option("--out", options->out,
                  "Write it to this new file, which only you can read, in place of printing it")
      ->type_name("FILE");
  CLI::App* list = command(token, "list", "List them, without their texts", &ListTokens);
  list->add_flag("--json", options->json, "One JSON document a line");
  CLI::App* revoke = command(token, "revoke", "Make one invalid, within a second", &RevokeToken);
  revoke->add_option("NAME", options->name, "Whose it is")->required();
  CLI::App* audit =
      command(app, "audit", "Show who changed or tried what: the audit log", &ShowAudit);
  audit->add_flag("--json", options->json, "One JSON document a line");
  audit->add_option("--last", options->last, "Only the newest so many [all]")->type_name("N");
}

}  // namespace swinfleet::coordinator
