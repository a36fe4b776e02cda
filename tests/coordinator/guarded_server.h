// A coordinator with tokens of every role, which a test starts when its options are set.
#ifndef SWINFLEET_TESTS_COORDINATOR_GUARDED_SERVER_H_
#define SWINFLEET_TESTS_COORDINATOR_GUARDED_SERVER_H_

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <map>
#include <memory>
#include <string>

#include "coordinator/access_store.h"
#include "coordinator/server.h"
#include "tests/coordinator/temporary_folder.h"
#include "tests/proto/certificates.h"

namespace swinfleet::coordinator {

class GuardedServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    options_.store = folder_.path() + "/store";
    options_.listen = {"127.0.0.1", 0};
    options_.admission.program = folder_.path() + "/plan";
    std::ofstream(options_.admission.program) << "#!/bin/sh\nexit 0\n";
    chmod(options_.admission.program.c_str(), 0700);
    std::unique_ptr<StoreFolder> store;
    ASSERT_TRUE(StoreFolder::Open(options_.store, &SystemFilesystemType, &store).ok());
    ASSERT_TRUE(AccessStore::Open(options_.store, true, &tokens_).ok());
  }
  // One of each role, two submitters, and one that has expired long ago.
  void AddTokens() {
    Add("vera", Role::kViewer);
    Add("sam", Role::kSubmitter);
    Add("tom", Role::kSubmitter);
    Add("ada", Role::kAdmin);
    Add("lab", Role::kFleet);
    Add("old", Role::kAdmin, /*expires_at=*/1000);
  }
  void Add(const std::string& name, Role role, double expires_at = 0) {
    texts_[name] = NewTokenText();
    Token token;
    token.name = name;
    token.role = role;
    token.hash = HashToken(texts_[name]);
    token.expires_at = expires_at;
    ASSERT_TRUE(tokens_->AddToken(token, AuditEntry()).ok());
  }
  void Start() {
    grpc::Status status = Server::OpenStore(options_, &server_);
    ASSERT_TRUE(status.ok()) << status.error_message();
    status = server_->Listen();
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  std::string address() const { return server_->address().ToString(); }

  const TemporaryFolder folder_;
  ServerOptions options_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<AccessStore> tokens_;
  std::map<std::string, std::string> texts_;
};

// With certificates of an authority for a server and a client, and of another one for a stranger.
template <class Base>
class WithCertificates : public Base {
 protected:
  WithCertificates()
      : authority_(this->folder_.path(), "ca"), other_(this->folder_.path(), "other-ca") {
    authority_.Sign("server");
    authority_.Sign("client");
    other_.Sign("stranger");
  }
  std::string Path(const std::string& name) const { return this->folder_.path() + "/" + name; }
  void StartTls(bool mutual) {
    this->options_.tls = {Path("server.pem"), Path("server.key"), mutual ? authority_.pem() : ""};
    this->options_.open_without_tokens = false;
    this->AddTokens();
    this->Start();
  }

  const Authority authority_, other_;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_TESTS_COORDINATOR_GUARDED_SERVER_H_
