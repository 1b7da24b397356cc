// One client's connection, with limits that cpp-httplib does not have: how much a request may hold (its headers too) and how long it may
// take to arrive; and the question whether the client is still there.
//
// Works with cpp-httplib 0.11 to 0.41, whose Stream and TaskQueue have changed between them.
#pragma once

#include <httplib.h>
#include <poll.h>
#undef _res  // resolv.h, which httplib.h includes, takes this name from Eigen

#include <array>
#include <atomic>
#include <chrono>

#include "dsv3/core/isa.hpp"

namespace serve::inline DSV3_ISA {

struct ConnectionLimits {
  std::size_t request_bytes = std::size_t{5} << 20;
  std::chrono::milliseconds request_time{30'000};  ///< for a request to arrive whole
  std::chrono::milliseconds write_time{30'000};    ///< for a client to take what is written
  std::chrono::milliseconds keep_alive{5'000};     ///< for its next request to begin
  int requests = 1000;                             ///< on one connection
};

/// No function is marked `override`: each version of httplib::Stream has others of them.
class Connection : public httplib::Stream {
 public:
  /// `ending`, once true, ends the waiting for a request or for the rest of one; answers are still written.
  Connection(socket_t socket, const ConnectionLimits& limits, const std::atomic<bool>& ending);
  ~Connection();

  /// How much later than its request a client's end may come and still be a part of it; alive() must be asked before, to see it.
  static constexpr std::chrono::milliseconds half_close_time{50};

  /// The connection that this thread serves; null outside of a request.
  static Connection* current();

  /// Waits for the first byte of a request. Returns whether there is one.
  bool wait_for_request();
  /// Whether the client is still there. One that closes its sending side with its request waits for the answer; one that does so later has
  /// left.
  bool alive() const;
  /// After the answer to this request: what the client still sends is not looked at.
  void close_after_answer() { closing_ = true; }
  bool closing() const { return closing_ || half_closed_; }
  /// Answers a client whose request is not going to be read, without making anyone wait.
  bool refuse(const std::string& answer);

  bool is_readable() const;
  bool is_writable() const { return alive() && ready(POLLOUT, limits_.write_time); }
  bool wait_readable() const { return begin_ < end_ || ready(POLLIN, time_left()); }
  bool wait_writable() const { return is_writable(); }
  ssize_t read(char* bytes, size_t size);
  ssize_t write(const char* bytes, size_t size);
  void get_remote_ip_and_port(std::string& ip, int& port) const;
  void get_local_ip_and_port(std::string& ip, int& port) const;
  socket_t socket() const { return socket_; }
  time_t duration() const { return std::chrono::duration_cast<std::chrono::milliseconds>(limits_.request_time - time_left()).count(); }

 private:
  using Clock = std::chrono::steady_clock;

  bool ready(short events, std::chrono::milliseconds timeout) const;
  std::chrono::milliseconds time_left() const { return std::chrono::duration_cast<std::chrono::milliseconds>(deadline_ - Clock::now()); }

  socket_t socket_;
  const ConnectionLimits& limits_;
  std::array<char, 8192> buffer_;
  std::size_t begin_ = 0, end_ = 0;  // what of buffer_ has been received and not read
  std::size_t left_ = 0;             // bytes that the request may still have
  Clock::time_point deadline_;
  const std::atomic<bool>& ending_;
  Clock::time_point begin_time_;      // of the request
  mutable bool half_closed_ = false;  // what alive() has found out
  bool closing_ = false;
};

/// A server whose connections are Connections, each on a thread of its own; clients beyond their number are told to come back later.
class Server : public httplib::Server {
 public:
  Server(const ConnectionLimits& limits, int connections);

  /// Binds to host and port (0: any free one). Returns the port; 0 if that fails.
  int bind(const std::string& host, int port);
  /// Ends listening, and connections that wait for a request or for the rest of one. Answers that are being written are not cut.
  void end();

 private:
  bool process_and_close_socket(socket_t socket) override;
  // A template, so that the version of process_request that httplib does not have is not compiled.
  template <class S>
  static bool process(S& server, Connection& connection, bool last, bool& closed);

  ConnectionLimits limits_;
  std::atomic<bool> ending_ = false;
};

}  // namespace serve::inline DSV3_ISA
