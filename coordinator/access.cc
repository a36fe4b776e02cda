#include "coordinator/access.h"

#include <glog/logging.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

#include <utility>

namespace swinfleet::coordinator {
namespace {

constexpr char kPrefix[] = "swinfleet_";
constexpr size_t kRandomBytes = 32;
// Longer texts are no tokens, and are not hashed.
constexpr size_t kMaxTokenText = 256;

constexpr Role kRoles[] = {Role::kViewer, Role::kSubmitter, Role::kAdmin, Role::kFleet};

bool IsAtLeast(const Identity& identity, Role role) {
  if (!identity.ok()) return false;
  return identity.open || (identity.role != Role::kFleet && identity.role >= role);
}

Identity Refuse(const std::string& why) {
  Identity identity;
  identity.refusal = why;
  return identity;
}

}  // namespace

const char* RoleName(Role role) {
  switch (role) {
    case Role::kViewer:
      return "viewer";
    case Role::kSubmitter:
      return "submitter";
    case Role::kAdmin:
      return "admin";
    case Role::kFleet:
      return "fleet";
  }
  return "unknown";
}

std::optional<Role> ParseRole(std::string_view name) {
  for (const Role role : kRoles) {
    if (name == RoleName(role)) return role;
  }
  return std::nullopt;
}

std::string NewTokenText() {
  unsigned char bytes[kRandomBytes];
  CHECK_EQ(RAND_bytes(bytes, sizeof(bytes)), 1) << "no random numbers";
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text = kPrefix;
  for (const unsigned char byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  OPENSSL_cleanse(bytes, sizeof(bytes));
  return text;
}

TokenHash HashToken(std::string_view text) {
  static_assert(sizeof(TokenHash) == SHA256_DIGEST_LENGTH);
  TokenHash hash;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), hash.data());
  return hash;
}

AccessControl::AccessControl(Clock clock, bool open_without_tokens)
    : clock_(std::move(clock)), open_without_tokens_(open_without_tokens) {}

void AccessControl::SetTokens(std::vector<Token> tokens) {
  const std::lock_guard lock(mutex_);
  tokens_ = std::move(tokens);
}

bool AccessControl::open() const {
  const std::lock_guard lock(mutex_);
  return IsOpen();
}

std::string AccessControl::Fault(const Token& token) const {
  if (token.revoked_at != 0) return "the token of " + token.name + " was revoked";
  if (token.expires_at != 0 && clock_() >= token.expires_at) {
    return "the token of " + token.name + " has expired";
  }
  return "";
}

Identity AccessControl::Authenticate(std::string_view bearer_token,
                                     bool peer_is_loopback_or_tls) const {
  const std::lock_guard lock(mutex_);
  if (IsOpen()) {
    Identity identity;
    identity.open = true;
    return identity;
  }
  if (tokens_.empty()) {
    return Refuse(
        "this coordinator has no tokens yet, so nobody may do anything; make one on its machine: "
        "swinfleet-coordinator token add NAME --role admin");
  }
  if (bearer_token.empty()) {
    return Refuse(
        "no token was sent; give one by --token-file or $SWINFLEET_TOKEN (an operator makes it "
        "with "
        "swinfleet-coordinator token add)");
  }
  if (!peer_is_loopback_or_tls) {
    return Refuse(
        "a token was sent over the network in plain text, where others can read it: revoke it, and "
        "have the coordinator use TLS (--tls-cert, --tls-key)");
  }
  const Token* found = nullptr;
  if (bearer_token.size() <= kMaxTokenText) {
    const TokenHash hash = HashToken(bearer_token);
    // All of them are looked at, so that the time tells nothing.
    for (const Token& token : tokens_) {
      if (CRYPTO_memcmp(hash.data(), token.hash.data(), hash.size()) == 0) found = &token;
    }
  }
  if (found == nullptr) {
    return Refuse("the token is not known to this coordinator; ask its operator for another");
  }
  Identity identity;
  identity.name = found->name;
  identity.role = found->role;
  identity.hash = found->hash;
  identity.refusal = Fault(*found);
  if (!identity.ok()) identity.refusal += "; ask the coordinator's operator for another";
  return identity;
}

std::string AccessControl::Lapsed(const Identity& identity) const {
  if (!identity.ok()) return identity.refusal;
  const std::lock_guard lock(mutex_);
  if (identity.open) {
    return IsOpen() ? ""
                    : "this coordinator now asks for tokens; give "
                      "one by --token-file or $SWINFLEET_TOKEN";
  }
  for (const Token& token : tokens_) {
    if (token.hash == identity.hash) return Fault(token);
  }
  return "the token of " + identity.name + " is gone";
}

bool MayView(const Identity& identity) { return IsAtLeast(identity, Role::kViewer); }

bool MaySubmit(const Identity& identity) { return IsAtLeast(identity, Role::kSubmitter); }

bool MayCancel(const Identity& identity, std::string_view owner) {
  return IsAtLeast(identity, Role::kAdmin) ||
         (IsAtLeast(identity, Role::kSubmitter) && owner == identity.name);
}

bool MayFence(const Identity& identity) { return IsAtLeast(identity, Role::kAdmin); }

bool MayServe(const Identity& identity) {
  return identity.ok() && (identity.open || identity.role == Role::kFleet);
}

std::string Owner(const Identity& identity, const std::string& claimed) {
  return identity.open ? claimed : identity.name;
}

std::string Forbidden(const Identity& identity, const std::string& doing, Role needed) {
  return identity.name + " (" + RoleName(identity.role) + ") may not " + doing +
         "; that takes a token with the role " + RoleName(needed);
}

}  // namespace swinfleet::coordinator
