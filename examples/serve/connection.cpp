#include "connection.hpp"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

namespace serve::inline DSV3_ISA {
namespace {

thread_local Connection* current_connection = nullptr;
thread_local bool too_many_connections = false;

void name_of(const sockaddr_storage& address, std::string& ip, int& port) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    inet_ntop(AF_INET, &v4.sin_addr, text, sizeof text);
    port = ntohs(v4.sin_port);
  } else if (address.ss_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
    inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof text);
    port = ntohs(v6.sin6_port);
  }
  ip = text;
}

/// Threads for connections. One that comes when all are busy is refused on the spot, by the thread that accepted it.
class Workers : public httplib::TaskQueue {
  using Enqueued = decltype(std::declval<httplib::TaskQueue&>().enqueue({}));  // void, or whether there was room

 public:
  explicit Workers(int threads) : idle_(threads) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
  }

  Enqueued enqueue(std::function<void()> serve_connection) override {
    {
      const std::lock_guard lock(mutex_);
      too_many_connections = idle_ == 0;
      if (!too_many_connections) {
        --idle_;
        tasks_.push_back(std::move(serve_connection));
        changed_.notify_one();
        return Enqueued(true);
      }
    }
    serve_connection();
    return Enqueued(true);
  }

  void shutdown() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    for (auto& t : threads_) t.join();
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [&] { return stopping_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      const auto task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
      lock.lock();
      ++idle_;
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  int idle_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

Connection::Connection(socket_t socket, const ConnectionLimits& limits, const std::atomic<bool>& ending)
    : socket_(socket), limits_(limits), ending_(ending) {
  current_connection = this;
}

Connection::~Connection() {
  current_connection = nullptr;
  // Closing while the client still sends would make its system drop our answer: tell it that no more comes, and wait a moment for its end.
  ::shutdown(socket_, SHUT_WR);
  const auto until = Clock::now() + std::chrono::seconds(1);
  while (closing_ && Clock::now() < until && ready(POLLIN, std::chrono::milliseconds(100)))
    if (::recv(socket_, buffer_.data(), buffer_.size(), MSG_DONTWAIT) <= 0) break;
  ::close(socket_);
}

Connection* Connection::current() { return current_connection; }

bool Connection::ready(short events, std::chrono::milliseconds timeout) const {
  const auto until = Clock::now() + timeout;
  while (true) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count();
    const long slice = events == POLLIN ? std::min<long>(left, 100) : left;  // between looks at whether the server ends
    pollfd p{socket_, events, 0};
    const int n = ::poll(&p, 1, static_cast<int>(std::max<long>(slice, 0)));
    if (n > 0) return true;
    if (n < 0 && errno != EINTR) return false;
    if (n == 0 && (slice >= left || ending_)) return false;
  }
}

bool Connection::alive() const {
  pollfd p{socket_, POLLRDHUP, 0};
  if (::poll(&p, 1, 0) == 0) return true;
  if ((p.revents & (POLLERR | POLLHUP)) != 0) return false;
  if (Clock::now() - begin_time_ < half_close_time) half_closed_ = true;
  return half_closed_;
}

bool Connection::wait_for_request() {
  if (begin_ == end_ && !ready(POLLIN, limits_.keep_alive)) return false;
  begin_time_ = Clock::now();
  left_ = limits_.request_bytes;
  deadline_ = begin_time_ + limits_.request_time;
  constexpr unsigned char tls_handshake = 0x16;
  unsigned char first = 0;
  const bool tls = begin_ == end_ && ::recv(socket_, &first, 1, MSG_PEEK | MSG_DONTWAIT) == 1 && first == tls_handshake;
  return !tls;  // it would wait for an answer in TLS
}

bool Connection::is_readable() const { return begin_ < end_ || ready(POLLIN, std::chrono::milliseconds(0)); }

ssize_t Connection::read(char* bytes, size_t size) {
  if (left_ == 0) {
    closing_ = true;  // the rest of the request is still to come
    return -1;
  }
  if (begin_ == end_) {
    const auto time = time_left();
    const ssize_t n = time.count() > 0 && ready(POLLIN, time) ? ::recv(socket_, buffer_.data(), buffer_.size(), 0) : -1;
    if (n <= 0) {
      closing_ = true;
      return n;
    }
    begin_ = 0;
    end_ = static_cast<std::size_t>(n);
  }
  const std::size_t n = std::min({size, end_ - begin_, left_});
  std::copy_n(buffer_.data() + begin_, n, bytes);
  begin_ += n;
  left_ -= n;
  return static_cast<ssize_t>(n);
}

ssize_t Connection::write(const char* bytes, size_t size) {
  while (true) {
    const ssize_t n = ::send(socket_, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0) return n;
    if (errno == EINTR) continue;
    if ((errno == EAGAIN || errno == EWOULDBLOCK) && ready(POLLOUT, limits_.write_time)) continue;
    closing_ = true;
    return -1;
  }
}

bool Connection::refuse(const std::string& answer) {
  if (ready(POLLIN, std::chrono::milliseconds(20))) ::recv(socket_, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
  return write(answer.data(), answer.size()) > 0;
}

void Connection::get_remote_ip_and_port(std::string& ip, int& port) const {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getpeername(socket_, reinterpret_cast<sockaddr*>(&address), &size) == 0) name_of(address, ip, port);
}

void Connection::get_local_ip_and_port(std::string& ip, int& port) const {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size) == 0) name_of(address, ip, port);
}

Server::Server(const ConnectionLimits& limits, int connections) : limits_(limits) {
  new_task_queue = [connections] { return new Workers(connections); };  // httplib takes ownership
  set_tcp_nodelay(true);
  // httplib's default is SO_REUSEPORT, with which a second server on the same port starts and takes half of the clients.
  set_socket_options([](socket_t socket) {
    const int yes = 1;
    ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  });
  set_keep_alive_max_count(static_cast<std::size_t>(limits.requests));  // what it tells clients
  set_keep_alive_timeout(std::chrono::duration_cast<std::chrono::seconds>(limits.keep_alive).count());
}

int Server::bind(const std::string& host, int port) {
  const int bound = port == 0 ? bind_to_any_port(host) : bind_to_port(host, port) ? port : -1;
  if (bound <= 0) return 0;
  ::listen(svr_sock_, 1024);  // httplib's backlog of 5 is soon full
  return bound;
}

template <class S>
bool Server::process(S& server, Connection& connection, bool last, bool& closed) {
  if constexpr (requires { server.process_request(connection, last, closed, nullptr); }) {
    return server.process_request(connection, last, closed, nullptr);
  } else {
    std::string remote, local;
    int remote_port = 0, local_port = 0;
    connection.get_remote_ip_and_port(remote, remote_port);
    connection.get_local_ip_and_port(local, local_port);
    return server.process_request(connection, remote, remote_port, local, local_port, last, closed, nullptr);
  }
}

void Server::end() {
  ending_ = true;
  stop();
}

bool Server::process_and_close_socket(socket_t socket) {
  Connection connection(socket, limits_, ending_);
  if (too_many_connections) {
    const std::string body = R"({"error":{"message":"Too many connections.","type":"server_error","param":null,"code":"overloaded"}})";
    const std::string answer =
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: " +
        std::to_string(body.size()) + "\r\n\r\n" + body;
    return connection.refuse(answer);
  }
  bool good = true;
  for (int left = limits_.requests; left > 0 && good && !connection.closing() && svr_sock_ != INVALID_SOCKET; --left) {
    if (!connection.wait_for_request()) break;
    bool closed = false;
    good = process(*this, connection, left == 1, closed);
    if (closed) break;
  }
  return good;
}

}  // namespace serve::inline DSV3_ISA
