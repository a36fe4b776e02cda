// A coordinator for tests: an in-process gRPC server that says what the test tells it to say, and
// keeps everything that workers said.
#ifndef SWINFLEET_TESTS_WORKER_FAKE_COORDINATOR_H_
#define SWINFLEET_TESTS_WORKER_FAKE_COORDINATOR_H_

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "proto/coordinator.grpc.pb.h"

namespace swinfleet {

class FakeCoordinator : public FleetService::Service {
 public:
  using Matcher = std::function<bool(const WorkerMessage&)>;

  // Listens on a port of the kernel's choice, or on `port`.
  explicit FakeCoordinator(int port = 0) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:" + std::to_string(port), grpc::InsecureServerCredentials(),
                             &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakeCoordinator() override { Stop(); }

  int port() const { return port_; }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  // What a Hello is answered with from now on; nothing at all when neither field is set.
  void AnswerHello(const WorkerCommand& command) {
    const std::lock_guard lock(mutex_);
    answer_ = command;
  }

  // A Hello ends its stream with this from now on; OK: it is answered again.
  void Refuse(const grpc::Status& refusal) {
    const std::lock_guard lock(mutex_);
    refusal_ = refusal;
  }

  // To all workers that are connected, or to one rank.
  void Send(const WorkerCommand& command, int rank = -1) {
    const std::lock_guard lock(mutex_);
    for (auto& [stream, of_rank] : streams_) {
      if (rank < 0 || of_rank == rank) stream->Write(command);
    }
  }
  void SendAssignment(const std::string& job_id, uint32_t attempt, const JobSpec& spec,
                      uint32_t ranks, const std::string& resume_from = "") {
    WorkerCommand command;
    command.mutable_assignment()->set_job_id(job_id);
    command.mutable_assignment()->set_attempt(attempt);
    *command.mutable_assignment()->mutable_spec() = spec;
    command.mutable_assignment()->set_ranks(ranks);
    command.mutable_assignment()->set_resume_from(resume_from);
    Send(command);
  }
  void Acknowledge(const std::string& job_id, uint32_t attempt) {
    WorkerCommand command;
    command.mutable_end_acknowledged()->set_job_id(job_id);
    command.mutable_end_acknowledged()->set_attempt(attempt);
    Send(command);
  }

  // Breaks all connections.
  void Drop() {
    const std::lock_guard lock(mutex_);
    for (grpc::ServerContext* context : contexts_) context->TryCancel();
  }
  void Stop() {
    if (server_) server_->Shutdown(std::chrono::system_clock::now());
    server_.reset();
  }

  // Number of messages so far: where a later search can start.
  size_t Mark() {
    const std::lock_guard lock(mutex_);
    return messages_.size();
  }
  // Waits for a message after `from` that matches; false after `seconds`.
  bool WaitFor(const Matcher& matches, size_t from = 0, WorkerMessage* found = nullptr,
               double seconds = 10) {
    std::unique_lock lock(mutex_);
    size_t next = from;
    return changed_.wait_for(lock, std::chrono::duration<double>(seconds), [&] {
      for (; next < messages_.size(); ++next) {
        if (!matches(messages_[next])) continue;
        if (found != nullptr) *found = messages_[next];
        return true;
      }
      return false;
    });
  }
  int Count(const Matcher& matches, size_t from = 0) {
    const std::lock_guard lock(mutex_);
    int count = 0;
    for (size_t i = from; i < messages_.size(); ++i) count += matches(messages_[i]) ? 1 : 0;
    return count;
  }

  static WorkerCommand Welcome(double heartbeat_seconds) {
    WorkerCommand command;
    command.mutable_welcome()->set_heartbeat_seconds(heartbeat_seconds);
    return command;
  }

  // The service.
  grpc::Status ConnectWorker(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<WorkerCommand, WorkerMessage>* stream) override {
    WorkerMessage message;
    if (!stream->Read(&message)) return grpc::Status::OK;
    bool rejected = false;
    {
      const std::lock_guard lock(mutex_);
      const int rank = static_cast<int>(message.hello().rank());
      messages_.push_back(message);
      if (!refusal_.ok()) {
        changed_.notify_all();
        return refusal_;
      }
      streams_[stream] = rank;
      contexts_.push_back(context);
      rejected = answer_.has_rejected();
      if (answer_.command_case() != WorkerCommand::COMMAND_NOT_SET) stream->Write(answer_);
    }
    changed_.notify_all();
    while (!rejected && stream->Read(&message)) {
      {
        const std::lock_guard lock(mutex_);
        messages_.push_back(message);
      }
      changed_.notify_all();
    }
    const std::lock_guard lock(mutex_);
    streams_.erase(stream);
    std::erase(contexts_, context);
    return grpc::Status::OK;
  }

 private:
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  std::mutex mutex_;
  std::condition_variable changed_;
  WorkerCommand answer_ = Welcome(0.05);
  grpc::Status refusal_;
  std::vector<WorkerMessage> messages_;
  std::map<grpc::ServerReaderWriter<WorkerCommand, WorkerMessage>*, int> streams_;
  std::vector<grpc::ServerContext*> contexts_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_TESTS_WORKER_FAKE_COORDINATOR_H_
