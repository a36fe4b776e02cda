// The coordinator's side of TLS.
#ifndef SWINFLEET_COORDINATOR_TLS_H_
#define SWINFLEET_COORDINATOR_TLS_H_

#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <string>

namespace swinfleet::coordinator {

// Files in PEM form. TLS is used where there is a certificate.
struct TlsFiles {
  std::string certificate;
  // Nobody else may be able to read it.
  std::string key;
  // Set: clients have to show a certificate that is signed by one of these authorities.
  std::string client_ca;

  bool empty() const { return certificate.empty(); }
};

// What the files hold.
struct TlsTexts {
  std::string certificate;
  std::string key;
  std::string client_ca;
};

// Reads the files, once, and checks them. Returns what is wrong with them, with what to do; empty:
// nothing. Without TLS all texts are empty.
std::string ReadTls(const TlsFiles& files, TlsTexts* out);

// The same as gRPC's credentials; without TLS those for plain text.
std::string MakeServerCredentials(const TlsFiles& files,
                                  std::shared_ptr<grpc::ServerCredentials>* out);

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_TLS_H_
