// Certificates for tests, made by the openssl command.
#ifndef SWINFLEET_TESTS_PROTO_CERTIFICATES_H_
#define SWINFLEET_TESTS_PROTO_CERTIFICATES_H_

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <string>

namespace swinfleet {

// An authority, and what it signs: NAME.pem and NAME.key in a folder.
class Authority {
 public:
  Authority(std::string folder, std::string name)
      : folder_(std::move(folder)), name_(std::move(name)) {
    Run("req -x509 " + kNewKey + " -keyout " + name_ + ".key -out " + name_ +
        ".pem -days 2 -subj /CN=" + name_);
  }

  std::string pem() const { return folder_ + "/" + name_ + ".pem"; }
  // Makes a certificate for this machine's loopback.
  void Sign(const std::string& name) const {
    std::ofstream(folder_ + "/" + name + ".ext")
        << "basicConstraints=CA:FALSE\nsubjectAltName=DNS:localhost,IP:127.0.0.1\n";
    Run("req " + kNewKey + " -keyout " + name + ".key -out " + name + ".csr -subj /CN=" + name);
    Run("x509 -req -in " + name + ".csr -CA " + name_ + ".pem -CAkey " + name_ +
        ".key -CAcreateserial -days 1 -extfile " + name + ".ext -out " + name + ".pem");
  }

 private:
  void Run(const std::string& arguments) const {
    const std::string line = "cd '" + folder_ + "' && openssl " + arguments + " 2>>openssl.log";
    EXPECT_EQ(std::system(line.c_str()), 0) << line;
  }

  const std::string kNewKey = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
  const std::string folder_;
  const std::string name_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_TESTS_PROTO_CERTIFICATES_H_
