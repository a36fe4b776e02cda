// Files with secrets and certificates, read and checked, so that a bad one is told before anybody
// connects. Each function returns what is wrong, with the file and what to do; empty: nothing.
#ifndef SWINFLEET_PROTO_PEM_H_
#define SWINFLEET_PROTO_PEM_H_

#include <ctime>
#include <string>

namespace swinfleet {

// A small file that only its owner may use; of root's files a group may read them too.
std::string ReadSecretFile(const std::string& path, std::string* text);

// Certificates of authorities: one or more, as PEM.
std::string ReadAuthorities(const std::string& path, std::string* pem);

// A certificate with those of its issuers behind it, and its private key, a secret file. They
// belong together, and the certificate is valid at `now`.
std::string ReadCertificateAndKey(const std::string& certificate_path, const std::string& key_path,
                                  std::time_t now, std::string* certificate, std::string* key);

}  // namespace swinfleet

#endif  // SWINFLEET_PROTO_PEM_H_
