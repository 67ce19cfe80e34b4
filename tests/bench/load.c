/* Traffic for the bench: makes load between two containers and says, as one line of JSON, what arrived.
 *
 *   load tcp-receive PORT STREAMS WARMUP SECONDS            {"bytes": …, "seconds": …, "busy_seconds": …}
 *   load tcp-send ADDRESS PORT STREAMS SECONDS              {}
 *   load udp-receive PORT WARMUP SECONDS                    {"packets": …, "seconds": …}
 *   load udp-send ADDRESS PORT SIZE SECONDS                 {"packets": …, "seconds": …}
 *   load echo PORT                                          {}
 *   load round-trip ADDRESS PORT WARMUP SECONDS             {"count": …, "p50_us": …, "p99_us": …}
 *
 * The receiving side counts, from WARMUP seconds after the first byte on, for SECONDS; it prints "ready" when it can be
 * sent to. "busy_seconds" is what all processors of the machine worked in that time. Every role ends by itself:
 * what does not begin or end in time prints an error and exits with status 1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_STREAMS = 64,
    WRITE_BYTES = 128 << 10,
    READ_BYTES = 256 << 10,
    BATCH = 64,               /* datagrams per system call */
    DATAGRAM_BYTES = 2048,
    UDP_BUFFER_BYTES = 32 << 20,
    MAX_SAMPLES = 4 << 20,
    BEGIN_S = 6,              /* until the first byte has to be there: more than two lost SYNs take */
    GRACE_S = 4,              /* how much longer than planned a role may take */
};

static const char *role = "load";

static void fail(const char *what)
{
    fprintf(stderr, "%s: %s%s%s\n", role, what, errno ? ": " : "", errno ? strerror(errno) : "");
    exit(1);
}

static void check(int ok, const char *what)
{
    if (!ok)
        fail(what);
}

static void out_of_time(int number)
{
    static const char text[] = "load: not done in time\n";
    (void)number;
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0)
        _exit(3);
    _exit(1);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

/* Seconds that all processors have worked since the machine started; neither idle nor stolen by the hypervisor. */
static double busy_seconds(void)
{
    unsigned long long user, nice, system, idle, iowait, irq, softirq;
    FILE *file = fopen("/proc/stat", "r");
    check(file != NULL, "/proc/stat");
    int fields = fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu",
                        &user, &nice, &system, &idle, &iowait, &irq, &softirq);
    fclose(file);
    check(fields == 7, "/proc/stat is not as expected");
    return (double)(user + nice + system + irq + softirq) / sysconf(_SC_CLK_TCK);
}

static void ready(void)
{
    puts("ready");
    fflush(stdout);
}

static int open_socket(int type)
{
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    check(fd >= 0, "socket");
    return fd;
}

static void turn_on(int fd, int level, int option)
{
    check(setsockopt(fd, level, option, &(int){1}, sizeof(int)) == 0, "setsockopt");
}

static void limit_waits(int fd, int milliseconds)
{
    struct timeval limit = {milliseconds / 1000, milliseconds % 1000 * 1000};
    check(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0, "SO_RCVTIMEO");
    check(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0, "SO_SNDTIMEO");
}

static int connect_to(int type, const char *host, int port)
{
    int fd = open_socket(type);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    check(inet_pton(AF_INET, host, &address.sin_addr) == 1, "not an IPv4 address");
    limit_waits(fd, BEGIN_S * 1000);
    check(connect(fd, (struct sockaddr *)&address, sizeof address) == 0, "connect");
    return fd;
}

static int bind_to(int type, int port)
{
    int fd = open_socket(type);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    turn_on(fd, SOL_SOCKET, SO_REUSEADDR);
    check(bind(fd, (struct sockaddr *)&address, sizeof address) == 0, "bind");
    return fd;
}

static int listen_on(int port)
{
    int fd = bind_to(SOCK_STREAM, port);
    limit_waits(fd, BEGIN_S * 1000);
    check(listen(fd, MAX_STREAMS) == 0, "listen");
    ready();
    return fd;
}

/* The time in which a receiver counts; all zero before the first byte. */
struct window {
    double first, from, until;
};

/* Note the time of an arrival. Returns whether it counts. */
static int arrived(struct window *window, double time, double warmup, double seconds)
{
    if (window->first == 0) {
        window->first = time;
        window->from = time + warmup;
        window->until = window->from + seconds;
    }
    return time >= window->from;
}

static void tcp_receive(int port, int streams, double warmup, double seconds)
{
    static char buffer[READ_BYTES];
    struct pollfd fds[MAX_STREAMS];
    struct window window = {0};
    unsigned long long bytes = 0;
    double busy_before = -1, from = 0, time;
    int listener = listen_on(port);
    for (int i = 0; i < streams; i++) {
        fds[i] = (struct pollfd){.fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK), .events = POLLIN};
        check(fds[i].fd >= 0, "nobody connected");
    }
    while ((time = now()), window.first == 0 || time < window.until) {
        double wait = window.first == 0 ? BEGIN_S : busy_before < 0 ? window.from - time : window.until - time;
        int count = poll(fds, streams, wait < 0 ? 0 : (int)(wait * 1e3) + 1);
        check(count >= 0, "poll");
        if (count == 0 && window.first == 0)
            fail("nothing arrived");
        time = now();
        int counts = arrived(&window, time, warmup, seconds);
        if (counts && busy_before < 0) {
            busy_before = busy_seconds();
            from = time;
            window.until = from + seconds;
        }
        for (int i = 0; i < streams; i++) {
            if (!fds[i].revents)
                continue;
            ssize_t length = recv(fds[i].fd, buffer, sizeof buffer, 0);
            if (length < 0 && errno == EAGAIN)
                continue;
            check(length >= 0, "recv");
            errno = 0;
            check(length > 0, "the sender ended too early");
            bytes += counts ? length : 0;
        }
    }
    printf("{\"bytes\": %llu, \"seconds\": %.6f, \"busy_seconds\": %.2f}\n",
           bytes, time - from, busy_seconds() - busy_before);
}

static void tcp_send(const char *host, int port, int streams, double seconds)
{
    static char buffer[WRITE_BYTES];
    struct pollfd fds[MAX_STREAMS];
    for (int i = 0; i < streams; i++)
        fds[i] = (struct pollfd){.fd = connect_to(SOCK_STREAM, host, port), .events = POLLOUT};
    double end = now() + seconds, time;
    while ((time = now()) < end) {
        check(poll(fds, streams, (int)((end - time) * 1e3) + 1) >= 0, "poll");
        for (int i = 0; i < streams; i++) {
            if (!fds[i].revents)
                continue;
            ssize_t length = send(fds[i].fd, buffer, sizeof buffer, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (length < 0 && (errno == EPIPE || errno == ECONNRESET)) {
                puts("{}"); /* the receiver has seen enough */
                return;
            }
            check(length >= 0 || errno == EAGAIN, "send");
        }
    }
    puts("{}");
}

/* One slot of `size` bytes per message. */
static void prepare(struct mmsghdr *messages, struct iovec *slots, char (*buffers)[DATAGRAM_BYTES], size_t size)
{
    for (int i = 0; i < BATCH; i++) {
        slots[i] = (struct iovec){buffers[i], size};
        messages[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &slots[i], .msg_iovlen = 1}};
    }
}

static void udp_receive(int port, double warmup, double seconds)
{
    static char buffers[BATCH][DATAGRAM_BYTES];
    static struct mmsghdr messages[BATCH];
    static struct iovec slots[BATCH];
    struct window window = {0};
    unsigned long long packets = 0;
    int fd = bind_to(SOCK_DGRAM, port), size = UDP_BUFFER_BYTES;
    check(setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) == 0, "SO_RCVBUFFORCE");
    limit_waits(fd, 50);
    prepare(messages, slots, buffers, DATAGRAM_BYTES);
    ready();
    double begin = now(), time;
    while ((time = now()), window.first == 0 || time < window.until) {
        int count = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
        if (count < 0) {
            check(errno == EAGAIN, "recvmmsg");
            errno = 0;
            check(window.first > 0 || time - begin < BEGIN_S, "nothing arrived");
            continue;
        }
        time = now();
        if (arrived(&window, time, warmup, seconds) && time < window.until)
            packets += count;
    }
    printf("{\"packets\": %llu, \"seconds\": %.6f}\n", packets, seconds);
}

static void udp_send(const char *host, int port, int size, double seconds)
{
    static char buffers[BATCH][DATAGRAM_BYTES];
    static struct mmsghdr messages[BATCH];
    static struct iovec slots[BATCH];
    unsigned long long packets = 0;
    int fd = connect_to(SOCK_DGRAM, host, port);
    check(size <= DATAGRAM_BYTES, "the datagrams are too large");
    prepare(messages, slots, buffers, size);
    double begin = now(), time;
    while ((time = now()) < begin + seconds) {
        int count = sendmmsg(fd, messages, BATCH, 0);
        /* A full queue loses datagrams; a receiver that is done already refuses them. */
        check(count >= 0 || errno == ENOBUFS || errno == EAGAIN || errno == ECONNREFUSED, "sendmmsg");
        packets += count > 0 ? count : 0;
    }
    printf("{\"packets\": %llu, \"seconds\": %.6f}\n", packets, time - begin);
}

static void echo(int port)
{
    char byte;
    int fd = accept(listen_on(port), NULL, NULL);
    check(fd >= 0, "nobody connected");
    turn_on(fd, IPPROTO_TCP, TCP_NODELAY);
    while (recv(fd, &byte, 1, 0) == 1)
        check(send(fd, &byte, 1, MSG_NOSIGNAL) == 1, "send");
    puts("{}");
}

static int compare(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static void round_trip(const char *host, int port, double warmup, double seconds)
{
    uint32_t *samples_ns = calloc(MAX_SAMPLES, sizeof *samples_ns);
    size_t count = 0;
    char byte = 0;
    int fd = connect_to(SOCK_STREAM, host, port);
    check(samples_ns != NULL, "calloc");
    turn_on(fd, IPPROTO_TCP, TCP_NODELAY);
    double from = now() + warmup, until = from + seconds, before;
    while ((before = now()) < until && count < MAX_SAMPLES) {
        check(send(fd, &byte, 1, MSG_NOSIGNAL) == 1, "send");
        check(recv(fd, &byte, 1, 0) == 1, "no echo");
        if (before >= from)
            samples_ns[count++] = (now() - before) * 1e9;
    }
    errno = 0;
    check(count > 0, "not one round trip in time");
    qsort(samples_ns, count, sizeof *samples_ns, compare);
    printf("{\"count\": %zu, \"p50_us\": %.3f, \"p99_us\": %.3f}\n",
           count, samples_ns[count / 2] / 1e3, samples_ns[count * 99 / 100] / 1e3);
}

/* Whether this is the role to play, with that many arguments; arms its time limit. */
static int plays(int argc, char **argv, const char *name, int arguments, double seconds)
{
    if (argc < 2 || strcmp(argv[1], name) != 0 || argc != 2 + arguments)
        return 0;
    role = name;
    signal(SIGALRM, out_of_time);
    alarm((unsigned)(seconds + 2 * BEGIN_S + GRACE_S));
    return 1;
}

static double number(int argc, char **argv, int index)
{
    return index > 0 && index < argc ? atof(argv[index]) : 0;
}

int main(int argc, char **argv)
{
    double last = number(argc, argv, argc - 1), before_last = number(argc, argv, argc - 2);
    int third = number(argc, argv, 3), fourth = number(argc, argv, 4);
    if (plays(argc, argv, "tcp-receive", 4, before_last + last)) {
        check(third >= 1 && third <= MAX_STREAMS, "too many streams");
        tcp_receive(number(argc, argv, 2), third, before_last, last);
    } else if (plays(argc, argv, "tcp-send", 4, last)) {
        check(fourth >= 1 && fourth <= MAX_STREAMS, "too many streams");
        tcp_send(argv[2], third, fourth, last);
    } else if (plays(argc, argv, "udp-receive", 3, before_last + last)) {
        udp_receive(number(argc, argv, 2), before_last, last);
    } else if (plays(argc, argv, "udp-send", 4, last)) {
        udp_send(argv[2], third, fourth, last);
    } else if (plays(argc, argv, "echo", 1, BEGIN_S)) {
        echo(last);
    } else if (plays(argc, argv, "round-trip", 4, before_last + last)) {
        round_trip(argv[2], third, before_last, last);
    } else {
        errno = 0;
        fail("what to do? See the top of load.c");
    }
    return 0;
}
