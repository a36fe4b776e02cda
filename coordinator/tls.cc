#include "coordinator/tls.h"

#include <ctime>
#include <utility>

#include "proto/pem.h"

namespace swinfleet::coordinator {

std::string ReadTls(const TlsFiles& files, TlsTexts* out) {
  if (files.certificate.empty() != files.key.empty()) {
    return "--tls-cert and --tls-key belong together: give both or none";
  }
  if (files.empty()) {
    if (files.client_ca.empty()) return "";
    return "--tls-client-ca is of no use without --tls-cert and --tls-key, which turn TLS on";
  }
  TlsTexts texts;
  std::string fault = ReadCertificateAndKey(files.certificate, files.key, std::time(nullptr),
                                            &texts.certificate, &texts.key);
  if (fault.empty() && !files.client_ca.empty()) {
    fault = ReadAuthorities(files.client_ca, &texts.client_ca);
  }
  if (fault.empty()) *out = std::move(texts);
  return fault;
}

std::string MakeServerCredentials(const TlsFiles& files,
                                  std::shared_ptr<grpc::ServerCredentials>* out) {
  TlsTexts texts;
  if (std::string fault = ReadTls(files, &texts); !fault.empty()) return fault;
  if (files.empty()) {
    *out = grpc::InsecureServerCredentials();
    return "";
  }
  grpc::SslServerCredentialsOptions options(
      texts.client_ca.empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                              : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_root_certs = std::move(texts.client_ca);
  options.pem_key_cert_pairs.push_back({std::move(texts.key), std::move(texts.certificate)});
  *out = grpc::SslServerCredentials(options);
  return "";
}

}  // namespace swinfleet::coordinator
