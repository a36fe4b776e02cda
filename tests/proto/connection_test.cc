// Certificates, keys and tokens as files, and what clients refuse before they connect.
#include "proto/connection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <string>

#include "proto/pem.h"
#include "tests/proto/certificates.h"

namespace swinfleet {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

class Connection : public ::testing::Test {
 protected:
  Connection() {
    std::string pattern = testing::TempDir() + "/swinfleet_test_XXXXXX";
    folder_ = mkdtemp(pattern.data());
    for (const ConnectionFlag& flag : kConnectionFlags) unsetenv(flag.variable);
    unsetenv("SWINFLEET_TOKEN");
  }
  ~Connection() override {
    unsetenv("SWINFLEET_TOKEN");
    std::filesystem::remove_all(folder_);
  }
  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  std::string Write(const std::string& name, const std::string& text, mode_t mode = 0600) const {
    std::ofstream(Path(name)) << text;
    chmod(Path(name).c_str(), mode);
    return Path(name);
  }
  std::string Read(const ConnectionOptions& options,
                   const std::string& address = "127.0.0.1:7077") const {
    Credentials credentials;
    return Credentials::Read(options, address, &credentials);
  }
  std::string Pair(const std::string& certificate, const std::string& key,
                   std::time_t now = std::time(nullptr)) const {
    std::string certificate_text, key_text;
    return ReadCertificateAndKey(Path(certificate), Path(key), now, &certificate_text, &key_text);
  }

  std::string folder_;
};

TEST_F(Connection, SecretsThatOthersMayReadAreRefused) {
  std::string text;
  const std::string path = Write("secret", "x");
  EXPECT_THAT(ReadSecretFile(path, &text), IsEmpty());
  EXPECT_EQ(text, "x");
  chmod(path.c_str(), 0400);
  EXPECT_THAT(ReadSecretFile(path, &text), IsEmpty());
  for (const mode_t mode : {0604, 0644, 0602, 0601, 0620, 0666}) {
    chmod(path.c_str(), mode);
    EXPECT_THAT(ReadSecretFile(path, &text), HasSubstr("chmod 600 " + path)) << mode;
  }
  // A group may read what belongs to root, and nothing else.
  chmod(path.c_str(), 0640);
  struct stat info;
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  if (info.st_uid == 0) {
    EXPECT_THAT(ReadSecretFile(path, &text), IsEmpty());
    ASSERT_EQ(chown(path.c_str(), 1, 1), 0);
  }
  EXPECT_THAT(ReadSecretFile(path, &text), HasSubstr("mode 0640"));
}

TEST_F(Connection, WhatIsNoSecretFileIsRefused) {
  std::string text;
  EXPECT_THAT(ReadSecretFile(Path("none"), &text), HasSubstr("No such file"));
  EXPECT_THAT(ReadSecretFile(folder_, &text), HasSubstr("is not a file"));
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);
  EXPECT_THAT(ReadSecretFile(Path("pipe"), &text), HasSubstr("is not a file"));
  EXPECT_THAT(ReadSecretFile(Write("big", std::string((1 << 20) + 1, 'x')), &text),
              HasSubstr("larger than 1 MiB"));
}

TEST_F(Connection, CertificatesAndKeysBelongTogether) {
  const Authority authority(folder_, "ca");
  authority.Sign("one");
  authority.Sign("two");
  EXPECT_THAT(Pair("one.pem", "one.key"), IsEmpty());
  EXPECT_THAT(Pair("one.pem", "two.key"), HasSubstr("is not the key of"));
  EXPECT_THAT(Pair("one.key", "one.key"), HasSubstr("has no certificate in PEM form"));
  EXPECT_THAT(Pair("one.pem", "one.csr"), HasSubstr("others may use it"));
  chmod(Path("one.csr").c_str(), 0600);
  EXPECT_THAT(Pair("one.pem", "one.csr"), HasSubstr("has no private key in PEM form"));
  EXPECT_THAT(Pair("none.pem", "one.key"), HasSubstr("No such file"));
  chmod(Path("one.key").c_str(), 0644);
  EXPECT_THAT(Pair("one.pem", "one.key"), HasSubstr("others may use it (mode 0644)"));
  chmod(Path("one.key").c_str(), 0600);
  Write("garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
  EXPECT_THAT(Pair("garbage", "one.key"), HasSubstr("has no certificate"));
  const std::string line = "cd '" + folder_ +
                           "' && openssl pkey -in one.key -aes128 "
                           "-passout pass:x -out locked.key 2>>openssl.log && chmod 600 locked.key";
  ASSERT_EQ(std::system(line.c_str()), 0);
  EXPECT_THAT(Pair("one.pem", "locked.key"), HasSubstr("pass phrase"));
}

TEST_F(Connection, CertificatesHaveATime) {
  const Authority authority(folder_, "ca");
  authority.Sign("one");
  const std::time_t now = std::time(nullptr);
  EXPECT_THAT(Pair("one.pem", "one.key", now + 2 * 86400), HasSubstr("has expired"));
  EXPECT_THAT(Pair("one.pem", "one.key", now - 86400), HasSubstr("not valid yet"));
}

TEST_F(Connection, TokensAreOneWord) {
  ConnectionOptions options;
  for (const char* good : {"swinfleet_0123", "swinfleet_0123\n", "a.b-c_d \r\n"}) {
    options.token_file = Write("token", good);
    EXPECT_THAT(Read(options), IsEmpty()) << good;
  }
  for (const std::string& bad :
       {std::string(), std::string("\n"), std::string("two words"), std::string("two\nlines"),
        std::string("\x01"), std::string(257, 'x')}) {
    options.token_file = Write("token", bad);
    EXPECT_THAT(Read(options), HasSubstr(Path("token") + " has no token")) << bad;
  }
  options.token_file = Write("token", "swinfleet_0123", 0644);
  EXPECT_THAT(Read(options), HasSubstr("others may use it"));
  options.token_file = Path("none");
  EXPECT_THAT(Read(options), HasSubstr("No such file"));
  setenv("SWINFLEET_TOKEN", "two words", 1);
  EXPECT_THAT(Read({}), HasSubstr("$SWINFLEET_TOKEN has no token"));
}

TEST_F(Connection, ATokenNeverCrossesTheNetworkInPlainText) {
  const Authority authority(folder_, "ca");
  ConnectionOptions options;
  options.token_file = Write("token", "swinfleet_0123");
  for (const char* here : {"127.0.0.1:1", "127.9.9.9:1", "localhost:1", "[::1]:1"}) {
    EXPECT_THAT(Read(options, here), IsEmpty()) << here;
  }
  for (const char* elsewhere :
       {"10.0.0.7:1", "example.com:1", "localhost.example.com:1", "127.0.0.1.example.com:1",
        "0.0.0.0:1", "[::]:1", "[::ffff:10.0.0.7]:1", "128.0.0.1:1"}) {
    EXPECT_THAT(Read(options, elsewhere), HasSubstr("plain text")) << elsewhere;
    EXPECT_THAT(Read({}, elsewhere), IsEmpty()) << elsewhere;
  }
  setenv("SWINFLEET_TOKEN", "swinfleet_0123", 1);
  EXPECT_THAT(Read({}, "10.0.0.7:1"), HasSubstr("--tls-ca"));
  options.ca_file = authority.pem();
  EXPECT_THAT(Read(options, "10.0.0.7:1"), IsEmpty());
}

TEST_F(Connection, OptionsThatMakeNoSenseAreRefused) {
  const Authority authority(folder_, "ca");
  authority.Sign("one");
  EXPECT_THAT(Read({.ca_file = authority.pem(), .certificate_file = Path("one.pem")}),
              HasSubstr("belong together"));
  EXPECT_THAT(Read({.certificate_file = Path("one.pem"), .key_file = Path("one.key")}),
              HasSubstr("--tls-ca"));
  EXPECT_THAT(Read({.ca_file = Path("one.key")}), HasSubstr("has no certificate"));
  EXPECT_THAT(Read({.ca_file = Path("none")}), HasSubstr("No such file"));
  EXPECT_THAT(Read({.ca_file = authority.pem(),
                    .certificate_file = Path("one.pem"),
                    .key_file = Path("one.key")}),
              IsEmpty());
}

TEST_F(Connection, TheEnvironmentFillsInWhatIsNotGiven) {
  setenv("SWINFLEET_TLS_CA", "ca-of-environment", 1);
  setenv("SWINFLEET_TOKEN_FILE", "token-of-environment", 1);
  ConnectionOptions options;
  options.token_file = "given";
  CompleteFromEnvironment(&options);
  EXPECT_EQ(options.ca_file, "ca-of-environment");
  EXPECT_EQ(options.token_file, "given");
  EXPECT_EQ(options.key_file, "");
  const auto arguments = ConnectionArguments(options);
  ASSERT_EQ(arguments.size(), 2u);
  EXPECT_EQ(arguments[0].first, "--tls-ca");
  EXPECT_EQ(arguments[0].second, std::filesystem::absolute("ca-of-environment").string());
  EXPECT_EQ(arguments[1].first, "--token-file");
}

}  // namespace
}  // namespace swinfleet
