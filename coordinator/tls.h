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

// Reads the files, once. Returns what is wrong with them, with what to do; empty: nothing. Without
// TLS these are gRPC's credentials for plain text.
std::string MakeServerCredentials(const TlsFiles& files,
                                  std::shared_ptr<grpc::ServerCredentials>* out);

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_TLS_H_
