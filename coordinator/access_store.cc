#include "coordinator/access_store.h"

#include <algorithm>
#include <optional>

#include "coordinator/job_store.h"

namespace swinfleet::coordinator {
namespace {

// Revoked ones count too; all are looked at for every request.
constexpr size_t kMaxTokens = 10000;

bool KnownRole(int64_t role) {
  return role >= static_cast<int64_t>(Role::kViewer) && role <= static_cast<int64_t>(Role::kFleet);
}

std::string Bytes(const TokenHash& hash) { return {hash.begin(), hash.end()}; }

}  // namespace

grpc::Status AccessStore::Open(const std::string& folder, bool migrate,
                               std::unique_ptr<AccessStore>* out) {
  std::unique_ptr<AccessStore> store(new AccessStore);
  const grpc::Status status = JobStore::OpenDatabase(folder, migrate, &store->database_);
  if (status.ok()) *out = std::move(store);
  return status;
}

grpc::Status AccessStore::LoadTokens(std::vector<Token>* out) {
  out->clear();
  Statement rows(database_.get(),
                 "SELECT name, role, hash, created_at, expires_at, revoked_at FROM tokens "
                 "ORDER BY id");
  while (rows.Next()) {
    Token token;
    token.name = rows.Text();
    const int64_t role = rows.Int();
    const std::string hash = rows.Text();
    if (!KnownRole(role) || hash.size() != token.hash.size()) {
      return {grpc::StatusCode::DATA_LOSS, database_->path() + " is damaged: the token of " +
                                               token.name + "; restore it from a backup"};
    }
    token.role = static_cast<Role>(role);
    std::copy(hash.begin(), hash.end(), token.hash.begin());
    token.created_at = rows.Double();
    token.expires_at = rows.Double();
    token.revoked_at = rows.Double();
    out->push_back(std::move(token));
  }
  return rows.status();
}

grpc::Status AccessStore::Generation(int64_t* generation) {
  return database_->Number("PRAGMA data_version", generation);
}

grpc::Status AccessStore::Revoke(const std::string& name, double time) {
  Statement revoke(database_.get(), "UPDATE tokens SET revoked_at=? WHERE name=? AND revoked_at=0");
  return revoke.Bind(time).Bind(name).Run();
}

grpc::Status AccessStore::WriteAudit(const AuditEntry& entry) {
  Statement put(database_.get(), kPutAudit);
  return PutAudit(&put, entry);
}

grpc::Status AccessStore::AddToken(const Token& token, const AuditEntry& entry) {
  Transaction transaction(database_.get());
  std::vector<Token> tokens;
  grpc::Status status = transaction.Begin();
  if (status.ok()) status = LoadTokens(&tokens);
  if (!status.ok()) return status;
  if (tokens.size() >= kMaxTokens) {
    return {grpc::StatusCode::RESOURCE_EXHAUSTED,
            std::to_string(kMaxTokens) + " tokens were made already, which is the limit"};
  }
  for (const Token& other : tokens) {
    if (other.name != token.name || other.revoked_at != 0) continue;
    if (other.expires_at == 0 || other.expires_at > entry.time) {
      return {grpc::StatusCode::ALREADY_EXISTS,
              "there is a token of " + token.name + " (" + RoleName(other.role) +
                  ") already; revoke it first, or choose another name"};
    }
    // One that has expired makes room.
    status = Revoke(token.name, entry.time);
  }
  Statement add(database_.get(),
                "INSERT INTO tokens (name, role, hash, created_at, expires_at, revoked_at) "
                "VALUES (?,?,?,?,?,0)");
  if (status.ok()) {
    status = add.Bind(token.name)
                 .Bind(static_cast<int64_t>(token.role))
                 .BindBlob(Bytes(token.hash))
                 .Bind(token.created_at)
                 .Bind(token.expires_at)
                 .Run();
  }
  if (status.ok()) status = WriteAudit(entry);
  return status.ok() ? transaction.Commit() : status;
}

grpc::Status AccessStore::RevokeToken(const std::string& name, const AuditEntry& entry) {
  Transaction transaction(database_.get());
  std::vector<Token> tokens;
  grpc::Status status = transaction.Begin();
  if (status.ok()) status = LoadTokens(&tokens);
  if (!status.ok()) return status;
  const bool known = std::any_of(tokens.begin(), tokens.end(), [&](const Token& token) {
    return token.name == name && token.revoked_at == 0;
  });
  if (!known) {
    return {grpc::StatusCode::NOT_FOUND, "there is no token of " + name +
                                             " that could be revoked; see swinfleet-coordinator "
                                             "token list"};
  }
  status = Revoke(name, entry.time);
  if (status.ok()) status = WriteAudit(entry);
  return status.ok() ? transaction.Commit() : status;
}

grpc::Status AccessStore::ReadAudit(uint64_t limit,
                                    const std::function<void(const AuditEntry&)>& take) {
  int64_t newest = 0;
  const grpc::Status status = database_->Number("SELECT coalesce(max(id), 0) FROM audit", &newest);
  if (!status.ok()) return status;
  const auto all = static_cast<uint64_t>(newest);
  Statement rows(database_.get(),
                 "SELECT time, who, role, peer, action, subject, result, times FROM audit "
                 "WHERE id>? ORDER BY id");
  rows.Bind(static_cast<int64_t>(limit == 0 || limit > all ? 0 : all - limit));
  while (rows.Next()) {
    AuditEntry entry;
    entry.time = rows.Double();
    entry.who = rows.Text();
    entry.role = rows.Text();
    entry.from = rows.Text();
    entry.action = rows.Text();
    entry.subject = rows.Text();
    entry.result = rows.Text();
    entry.times = static_cast<uint64_t>(rows.Int());
    take(entry);
  }
  return rows.status();
}

}  // namespace swinfleet::coordinator
