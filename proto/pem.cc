#include "proto/pem.h"

#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

namespace swinfleet {
namespace {

constexpr size_t kMaxFile = 1 << 20;

using Bio = std::unique_ptr<BIO, decltype(&BIO_free)>;
using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;
using Key = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;

class File {
 public:
  // Without waiting for the other end of a pipe that somebody has put there.
  explicit File(const std::string& path)
      : descriptor_(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)) {}
  ~File() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int descriptor() const { return descriptor_; }

 private:
  const int descriptor_;
};

std::string SecrecyFault(const std::string& path, const struct stat& info) {
  const mode_t group = info.st_uid == 0 ? S_IWGRP | S_IXGRP : S_IRWXG;
  if ((info.st_mode & (group | S_IRWXO)) == 0) return "";
  char mode[8];
  std::snprintf(mode, sizeof(mode), "%04o", static_cast<unsigned>(info.st_mode & 07777));
  return path + " holds a secret, and others may use it (mode " + mode + "): chmod 600 " + path +
         ", and replace the secret if others have accounts on this machine";
}

std::string ReadSmallFile(const std::string& path, bool secret, std::string* text) {
  const File file(path);
  struct stat info;
  if (file.descriptor() < 0 || fstat(file.descriptor(), &info) != 0) {
    return "can't read " + path + ": " + std::strerror(errno);
  }
  if (!S_ISREG(info.st_mode)) return path + " is not a file";
  if (secret) {
    if (std::string fault = SecrecyFault(path, info); !fault.empty()) return fault;
  }
  text->clear();
  char buffer[4096];
  ssize_t got = 0;
  while ((got = read(file.descriptor(), buffer, sizeof(buffer))) > 0 && text->size() <= kMaxFile) {
    text->append(buffer, static_cast<size_t>(got));
  }
  if (got < 0) return "can't read " + path + ": " + std::strerror(errno);
  return text->size() > kMaxFile ? path + " is larger than 1 MiB, and no certificate or key" : "";
}

Bio Open(const std::string& text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())), &BIO_free);
}

Certificate NextCertificate(BIO* bio) {
  Certificate certificate(PEM_read_bio_X509(bio, nullptr, nullptr, nullptr), &X509_free);
  ERR_clear_error();
  return certificate;
}

std::string NoCertificate(const std::string& path) {
  return path + " has no certificate in PEM form (-----BEGIN CERTIFICATE-----)";
}

// Nobody is there to type a pass phrase.
int NoPassPhrase(char*, int, int, void*) { return -1; }

std::string ParseKey(const std::string& path, const std::string& text, Key* key) {
  const Bio bio = Open(text);
  key->reset(PEM_read_bio_PrivateKey(bio.get(), nullptr, &NoPassPhrase, nullptr));
  ERR_clear_error();
  if (*key != nullptr) return "";
  if (text.find("ENCRYPTED") != std::string::npos) {
    return path +
           " is encrypted with a pass phrase, which nobody is there to type; write the key "
           "without one (openssl pkey -in " +
           path + " -out KEY)";
  }
  return path + " has no private key in PEM form (-----BEGIN PRIVATE KEY-----)";
}

std::string ValidityFault(const std::string& path, X509* certificate, std::time_t now) {
  if (X509_cmp_time(X509_get0_notAfter(certificate), &now) < 0) {
    return "the certificate " + path + " has expired; have a new one made";
  }
  if (X509_cmp_time(X509_get0_notBefore(certificate), &now) > 0) {
    return "the certificate " + path + " is not valid yet; is this machine's clock right?";
  }
  return "";
}

}  // namespace

std::string ReadSecretFile(const std::string& path, std::string* text) {
  return ReadSmallFile(path, /*secret=*/true, text);
}

std::string ReadAuthorities(const std::string& path, std::string* pem) {
  if (std::string fault = ReadSmallFile(path, /*secret=*/false, pem); !fault.empty()) return fault;
  const Bio bio = Open(*pem);
  return NextCertificate(bio.get()) == nullptr ? NoCertificate(path) : "";
}

std::string ReadCertificateAndKey(const std::string& certificate_path, const std::string& key_path,
                                  std::time_t now, std::string* certificate, std::string* key) {
  std::string fault = ReadSmallFile(certificate_path, /*secret=*/false, certificate);
  if (fault.empty()) fault = ReadSecretFile(key_path, key);
  if (!fault.empty()) return fault;
  const Bio bio = Open(*certificate);
  const Certificate first = NextCertificate(bio.get());
  if (first == nullptr) return NoCertificate(certificate_path);
  Key parsed(nullptr, &EVP_PKEY_free);
  fault = ParseKey(key_path, *key, &parsed);
  if (!fault.empty()) return fault;
  const bool belongs = X509_check_private_key(first.get(), parsed.get()) == 1;
  ERR_clear_error();
  if (!belongs) {
    return key_path + " is not the key of the first certificate in " + certificate_path;
  }
  return ValidityFault(certificate_path, first.get(), now);
}

}  // namespace swinfleet
