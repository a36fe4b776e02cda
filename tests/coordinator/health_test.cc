// gRPC's standard services, as common tools use them: health and reflection. Their messages are
// spelled out, because no package has their definitions.
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "coordinator/server.h"
#include "proto/connection.h"
#include "tests/coordinator/temporary_folder.h"

namespace swinfleet::coordinator {
namespace {

using ::testing::HasSubstr;
using Code = grpc::StatusCode;

constexpr char kCheck[] = "/grpc.health.v1.Health/Check";
constexpr char kWatch[] = "/grpc.health.v1.Health/Watch";
constexpr char kReflect[] = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
// HealthCheckResponse with status SERVING and NOT_SERVING.
constexpr char kServing[] = "\x08\x01";
constexpr char kNotServing[] = "\x08\x02";
// ServerReflectionRequest with list_services.
const std::string kListServices("\x3a\x00", 2);

// HealthCheckRequest.
std::string Asking(const std::string& service) {
  return std::string("\x0a") + static_cast<char>(service.size()) + service;
}

// A call of raw bytes to one method.
class RawCall {
 public:
  RawCall(const std::string& address, const std::string& method)
      : stub_(Credentials().Connect(address, grpc::ChannelArguments())) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    call_ = stub_.PrepareCall(&context_, method, &queue_);
    call_->StartCall(nullptr);
    Next();
  }
  ~RawCall() {
    context_.TryCancel();
    Finish();
    queue_.Shutdown();
    void* tag = nullptr;
    bool good = false;
    while (queue_.Next(&tag, &good)) {
    }
  }
  void Write(const std::string& bytes) {
    const grpc::Slice slice(bytes);
    call_->Write(grpc::ByteBuffer(&slice, 1), nullptr);
    Next();
  }
  // False at the end of the stream.
  bool Read(std::string* bytes) {
    grpc::ByteBuffer buffer;
    call_->Read(&buffer, nullptr);
    if (!Next()) return false;
    std::vector<grpc::Slice> slices;
    EXPECT_TRUE(buffer.Dump(&slices).ok());
    bytes->clear();
    for (const grpc::Slice& slice : slices) bytes->append(slice.begin(), slice.end());
    return true;
  }
  grpc::Status Finish() {
    if (finished_) return status_;
    finished_ = true;
    call_->Finish(&status_, nullptr);
    Next();
    return status_;
  }

 private:
  bool Next() {
    void* tag = nullptr;
    bool good = false;
    return queue_.Next(&tag, &good) && good;
  }

  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
  bool finished_ = false;
  grpc::Status status_;
};

class Health : public ::testing::Test {
 protected:
  void SetUp() override {
    ServerOptions options;
    options.store = folder_.path() + "/store";
    options.listen = {"127.0.0.1", 0};
    // No token was made, and none is needed for what is tested here.
    options.open_without_tokens = false;
    grpc::Status status = Server::OpenStore(options, &server_);
    ASSERT_TRUE(status.ok()) << status.error_message();
    status = server_->Listen();
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  std::string address() const { return server_->address().ToString(); }
  // What comes of one request.
  grpc::Status Ask(const std::string& method, const std::string& request, std::string* answer) {
    RawCall call(address(), method);
    call.Write(request);
    return call.Read(answer) ? grpc::Status::OK : call.Finish();
  }

  const TemporaryFolder folder_;
  std::unique_ptr<Server> server_;
};

TEST_F(Health, AnswersForEachService) {
  std::string answer;
  for (const char* service : {"", "swinfleet.Coordinator", "swinfleet.FleetService"}) {
    const grpc::Status status = Ask(kCheck, Asking(service), &answer);
    EXPECT_TRUE(status.ok()) << service << ": " << status.error_message();
    EXPECT_EQ(answer, kServing) << service;
  }
  EXPECT_EQ(Ask(kCheck, Asking("swinfleet.Other"), &answer).error_code(), Code::NOT_FOUND);
}

TEST_F(Health, WhoWatchesHearsOfTheEnd) {
  RawCall watch(address(), kWatch);
  watch.Write(Asking("swinfleet.Coordinator"));
  std::string answer;
  ASSERT_TRUE(watch.Read(&answer));
  EXPECT_EQ(answer, kServing);
  std::thread stop([this] { server_->Stop(); });
  EXPECT_TRUE(watch.Read(&answer));
  EXPECT_EQ(answer, kNotServing);
  stop.join();
}

TEST_F(Health, ReflectionNamesTheServices) {
  std::string answer;
  const grpc::Status status = Ask(kReflect, kListServices, &answer);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_THAT(answer, HasSubstr("swinfleet.Coordinator"));
  EXPECT_THAT(answer, HasSubstr("swinfleet.FleetService"));
  EXPECT_THAT(answer, HasSubstr("grpc.health.v1.Health"));
}

TEST_F(Health, ReflectionTakesFewThreads) {
  std::vector<std::unique_ptr<RawCall>> calls;
  int answered = 0, refused = 0;
  std::string answer;
  for (int i = 0; i < 20; ++i) {
    calls.push_back(std::make_unique<RawCall>(address(), kReflect));
    calls.back()->Write(kListServices);
    if (calls.back()->Read(&answer)) {
      ++answered;
    } else {
      EXPECT_EQ(calls.back()->Finish().error_code(), Code::RESOURCE_EXHAUSTED);
      ++refused;
    }
  }
  EXPECT_GE(answered, 1);
  EXPECT_GE(refused, 12);
  // Health is answered all the same.
  EXPECT_TRUE(Ask(kCheck, Asking(""), &answer).ok());
}

}  // namespace
}  // namespace swinfleet::coordinator
