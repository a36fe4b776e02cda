// Who may do what: the whole decision, for every server that the coordinator has. It does no input
// or output; tokens come from the store (access_store.h), and the time from a clock that is given.
//
// Users have tokens with one of the roles viewer, submitter and admin, each of which may do what
// the one before may; workers and supervisors have tokens of the role fleet, which may do nothing
// else. A token's name is the user: jobs belong to it.
//
// Where no token was ever made, a coordinator that nobody but this machine's users can reach (or
// that was told --insecure) is *open*: everybody may do everything, and is who they say they are.
#ifndef SWINFLEET_COORDINATOR_ACCESS_H_
#define SWINFLEET_COORDINATOR_ACCESS_H_

#include <array>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace swinfleet::coordinator {

// Numbers are stored: never reuse one.
enum class Role { kViewer = 1, kSubmitter = 2, kAdmin = 3, kFleet = 4 };

// "viewer", "submitter", "admin", "fleet".
const char* RoleName(Role role);
std::optional<Role> ParseRole(std::string_view name);

using TokenHash = std::array<uint8_t, 32>;

// A token as it is stored: its text is shown once, to who makes it, and kept nowhere.
struct Token {
  std::string name;
  Role role = Role::kViewer;
  // SHA-256 of its text, which is 256 random bits.
  TokenHash hash{};
  // Seconds since 1970. Never expires: 0; not revoked: 0.
  double created_at = 0;
  double expires_at = 0;
  double revoked_at = 0;
};

// A new token's text: "swinfleet_" and 64 hexadecimal digits.
std::string NewTokenText();
TokenHash HashToken(std::string_view text);

// Who somebody is, or why nothing may be done.
struct Identity {
  // Empty: authenticated. Otherwise for people, with what to do; no secrets in it.
  std::string refusal;
  // Nobody has been asked who they are (see above): everything is allowed.
  bool open = false;
  // Of the token; the user. Empty if `open`. Of a refusal: the token's if it is known, for the
  // audit log.
  std::string name;
  Role role = Role::kViewer;
  // Tells the token from others of the same name.
  TokenHash hash{};

  bool ok() const { return refusal.empty(); }
};

// Thread-safe.
class AccessControl {
 public:
  // Seconds since 1970.
  using Clock = std::function<double()>;

  // `open_without_tokens`: every address that is listened on is loopback, or --insecure was given.
  AccessControl(Clock clock, bool open_without_tokens);

  // Replaces the tokens that are known, revoked and expired ones among them.
  void SetTokens(std::vector<Token> tokens);
  // Nobody is asked who they are.
  bool open() const;

  // `bearer_token`: what came after "Bearer ", empty if nothing did. `peer_is_loopback_or_tls`: the
  // connection is encrypted, or does not leave this machine. Takes as long for any wrong token.
  Identity Authenticate(std::string_view bearer_token, bool peer_is_loopback_or_tls) const;
  // Why an identity that was authenticated is so no longer (revoked, expired, or no longer open);
  // empty: it still is. For connections that last.
  std::string Lapsed(const Identity& identity) const;

 private:
  // The caller holds mutex_.
  bool IsOpen() const { return open_without_tokens_ && tokens_.empty(); }
  // Why the token is not valid now.
  std::string Fault(const Token& token) const;

  const Clock clock_;
  const bool open_without_tokens_;
  mutable std::mutex mutex_;
  std::vector<Token> tokens_;
};

// ---- The rules. All are false for who is not authenticated. ----

// Jobs, logs, fleets, hosts.
bool MayView(const Identity& identity);
bool MaySubmit(const Identity& identity);
// Cancel a job that belongs to `owner`, or ask its ranks for a trace.
bool MayCancel(const Identity& identity, std::string_view owner);
bool MayFence(const Identity& identity);
// Serve as a worker, and report launches.
bool MayServe(const Identity& identity);

// Whom a job belongs to that is submitted by `identity`, whose client says that it is `claimed`.
std::string Owner(const Identity& identity, const std::string& claimed);

// "alice (viewer) may not submit jobs; that takes a token with the role submitter": for a rule that
// said no. `doing`: "submit jobs"; `needed`: the least role that may.
std::string Forbidden(const Identity& identity, const std::string& doing, Role needed);

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_ACCESS_H_
