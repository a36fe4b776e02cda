#include "coordinator/tls.h"

#include <ctime>
#include <utility>

#include "proto/pem.h"

namespace swinfleet::coordinator {

std::string MakeServerCredentials(const TlsFiles& files,
                                  std::shared_ptr<grpc::ServerCredentials>* out) {
  if (files.certificate.empty() != files.key.empty()) {
    return "--tls-cert and --tls-key belong together: give both or none";
  }
  if (files.empty()) {
    if (!files.client_ca.empty()) {
      return "--tls-client-ca is of no use without --tls-cert and --tls-key, which turn TLS on";
    }
    *out = grpc::InsecureServerCredentials();
    return "";
  }
  const bool mutual = !files.client_ca.empty();
  grpc::SslServerCredentialsOptions options(
      mutual ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
             : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  grpc::SslServerCredentialsOptions::PemKeyCertPair pair;
  std::string fault = ReadCertificateAndKey(files.certificate, files.key, std::time(nullptr),
                                            &pair.cert_chain, &pair.private_key);
  if (fault.empty() && mutual) fault = ReadAuthorities(files.client_ca, &options.pem_root_certs);
  if (!fault.empty()) return fault;
  options.pem_key_cert_pairs.push_back(std::move(pair));
  *out = grpc::SslServerCredentials(options);
  return "";
}

}  // namespace swinfleet::coordinator
