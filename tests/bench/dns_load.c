/* Queries for the bench of name servers: asks for A records over UDP, checks every answer, and says as one line of JSON
 * how it went.
 *
 *   dns_load busy NAMES ADDRESS PID CLIENTS WINDOW WARMUP SECONDS
 *   dns_load paced NAMES ADDRESS PID CLIENTS RATE WARMUP SECONDS
 *
 * NAMES is a file of lines `name address`; each query picks one of them by chance. Every client has a socket of its own.
 * busy: each client has WINDOW queries out all the time. paced: all together send RATE queries per second, at times that
 * are random and independent of the answers (a Poisson process), so that a slow server does not slow its clients.
 *
 * Counting begins after WARMUP seconds and takes SECONDS:
 *   "answered"            answers that arrived in that time
 *   "sent", "lost"        queries of that time, and those not answered within LOST_NS
 *   "p50_us", "p99_us"    from sending a query of that time to the arrival of its answer at the socket, as the kernel notes
 *                         it: it does not matter for how long the clients were kept from reading it
 *   "server_cpu_s"        processor time of process PID in that time
 *   "client_cpu_s"        of this process: near to "seconds" means that it, and not the server, was the limit
 *
 * A wrong answer, or a server that does not answer at all, prints an error and ends it with status 1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_NAMES = 1 << 16,
    MAX_CLIENTS = 64,
    MAX_WINDOW = 1024,
    SLOTS = 4096,            /* of a client: queries that can be out, also where there is no window */
    BATCH = 64,              /* datagrams per system call */
    QUERY_BYTES = 272,
    ANSWER_BYTES = 1500,
    HEADER_BYTES = 12,
    MAX_SAMPLES = 8 << 20,
    DNS_PORT = 53,
    BUFFER_BYTES = 4 << 20,
    LOST_NS = 500000000,
    GRACE_S = 10,            /* how much longer than planned a run may take */
};

struct name {
    uint8_t query[QUERY_BYTES]; /* without its ID */
    size_t length;
    uint32_t address;
    char text[256];
};

struct slot {
    uint64_t sent; /* 0: not out */
    uint16_t id;
    uint16_t name;
};

struct client {
    int fd;
    uint16_t next, oldest; /* IDs; all that are out lie between them */
    int out;
    struct slot slots[SLOTS];
    uint16_t due[BATCH]; /* names of queries to be sent now */
    int dues;
};

static struct name names[MAX_NAMES];
static int name_count;
static struct client clients[MAX_CLIENTS];
static int client_count;
static uint64_t from, until;
static unsigned long long answered, sent, lost;
static uint32_t *samples_ns;
static size_t samples;

static void fail(const char *what)
{
    fprintf(stderr, "dns_load: %s%s%s\n", what, errno ? ": " : "", errno ? strerror(errno) : "");
    exit(1);
}

static void check(int ok, const char *what)
{
    if (!ok)
        fail(what);
}

static void out_of_time(int number)
{
    static const char text[] = "dns_load: not done in time\n";
    (void)number;
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0)
        _exit(3);
    _exit(1);
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec time;
    check(clock_gettime(clock, &time) == 0, "clock_gettime");
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

/* By the clock of the kernel's notes of arrival. */
static uint64_t now(void)
{
    return clock_ns(CLOCK_REALTIME);
}

/* xorshift64*: the same names in the same order in each run. */
static uint64_t chance(void)
{
    static uint64_t state = 0x9e3779b97f4a7c15;
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545f4914f6cdd1d >> 16;
}

/* --- names ------------------------------------------------------------------------------------------------------- */

static void make_query(struct name *name)
{
    static const uint8_t flags_and_counts[] = {1, 0, 0, 1, 0, 0, 0, 0, 0, 0}; /* recursion desired, one question */
    static const uint8_t type_and_class[] = {0, 1, 0, 1};
    uint8_t *end = name->query;
    memcpy(end, flags_and_counts, sizeof flags_and_counts);
    end += sizeof flags_and_counts;
    for (const char *label = name->text; *label;) {
        size_t length = strcspn(label, ".");
        check(length > 0 && length < 64, "not a host name");
        *end++ = length;
        memcpy(end, label, length);
        end += length;
        label += length + (label[length] == '.');
    }
    *end++ = 0;
    memcpy(end, type_and_class, sizeof type_and_class);
    name->length = end + sizeof type_and_class - name->query;
}

static void read_names(const char *path)
{
    FILE *file = fopen(path, "r");
    char address[64];
    check(file != NULL, path);
    while (name_count < MAX_NAMES && fscanf(file, "%250s %63s", names[name_count].text, address) == 2) {
        check(inet_pton(AF_INET, address, &names[name_count].address) == 1, "not an IPv4 address");
        make_query(&names[name_count++]);
    }
    check(name_count > 0, "no names");
    fclose(file);
}

/* --- answers ----------------------------------------------------------------------------------------------------- */

static void wrong(const struct name *name, const char *what)
{
    errno = 0;
    fprintf(stderr, "dns_load: a wrong answer about %s: ", name->text);
    fail(what);
}

/* The position behind a name, compressed or not; NULL beyond the end. */
static const uint8_t *skip_name(const uint8_t *position, const uint8_t *end)
{
    while (position < end && *position && *position < 64)
        position += 1 + *position;
    if (position < end)
        position += *position ? 2 : 1;
    return position < end ? position : NULL;
}

/* What is expected: no error, the question as it was, and one A record with the address. */
static void check_answer(const struct name *name, const uint8_t *data, size_t length)
{
    static const uint8_t type_and_class[] = {0, 1, 0, 1};
    size_t question = name->length - (HEADER_BYTES - 2);
    const uint8_t *end = data + length, *record;
    if (!(data[2] & 0x80) || data[3] & 15)
        wrong(name, "it says that there is an error");
    if (length < HEADER_BYTES + question || memcmp(data + HEADER_BYTES, name->query + HEADER_BYTES - 2, question) != 0)
        wrong(name, "another question");
    if (data[4] || data[5] != 1 || data[6] || data[7] != 1)
        wrong(name, "not one question and one record");
    record = skip_name(data + HEADER_BYTES + question, end);
    if (!record || end - record < 14 || memcmp(record, type_and_class, 4) != 0 || record[8] || record[9] != 4)
        wrong(name, "not an A record");
    if (memcmp(record + 10, &name->address, 4) != 0)
        wrong(name, "another address");
}

static int counts(uint64_t time)
{
    return time >= from && time < until;
}

static void take(struct client *client, const uint8_t *data, size_t length, uint64_t time)
{
    uint16_t id;
    errno = 0;
    check(length >= HEADER_BYTES, "an answer without header");
    memcpy(&id, data, sizeof id);
    struct slot *slot = &client->slots[id % SLOTS];
    if (!slot->sent || slot->id != id)
        return; /* counted as lost already */
    check_answer(&names[slot->name], data, length);
    answered += counts(time);
    if (counts(slot->sent) && samples < MAX_SAMPLES)
        samples_ns[samples++] = time > slot->sent ? time - slot->sent : 0;
    slot->sent = 0;
    client->out--;
}

/* When a message arrived. */
static uint64_t arrival(struct msghdr *message)
{
    struct cmsghdr *note = CMSG_FIRSTHDR(message);
    struct timespec time;
    errno = 0;
    check(note && note->cmsg_level == SOL_SOCKET && note->cmsg_type == SCM_TIMESTAMPNS, "no time of arrival");
    memcpy(&time, CMSG_DATA(note), sizeof time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static void receive(struct client *client)
{
    static uint8_t buffers[BATCH][ANSWER_BYTES];
    static _Alignas(struct cmsghdr) uint8_t notes[BATCH][CMSG_SPACE(sizeof(struct timespec))];
    static struct mmsghdr messages[BATCH];
    static struct iovec slots[BATCH];
    int count;
    do {
        for (int i = 0; i < BATCH; i++) {
            slots[i] = (struct iovec){buffers[i], ANSWER_BYTES};
            messages[i] = (struct mmsghdr){.msg_hdr = {
                .msg_iov = &slots[i], .msg_iovlen = 1, .msg_control = notes[i], .msg_controllen = sizeof notes[i]}};
        }
        count = recvmmsg(client->fd, messages, BATCH, MSG_DONTWAIT, NULL);
        check(count >= 0 || errno == EAGAIN, "nobody answers");
        for (int i = 0; i < count; i++)
            take(client, buffers[i], messages[i].msg_len, arrival(&messages[i].msg_hdr));
    } while (count == BATCH);
}

/* Queries that are out for too long count as lost. */
static void forget_lost(struct client *client, uint64_t time)
{
    while (client->oldest != client->next) {
        struct slot *slot = &client->slots[client->oldest % SLOTS];
        if (slot->sent) {
            if (time - slot->sent < LOST_NS && (uint16_t)(client->next - client->oldest) < SLOTS - BATCH)
                return;
            lost += counts(slot->sent);
            slot->sent = 0;
            client->out--;
        }
        client->oldest++;
    }
}

/* --- queries ----------------------------------------------------------------------------------------------------- */

/* Send what is due. What a full queue does not take is lost, as a client would find. */
static void send_due(struct client *client)
{
    struct mmsghdr messages[BATCH];
    struct iovec parts[BATCH][2];
    uint64_t time = now();
    for (int i = 0; i < client->dues; i++) {
        struct name *name = &names[client->due[i]];
        struct slot *slot = &client->slots[client->next % SLOTS];
        if (slot->sent) { /* more are out than there are slots */
            lost += counts(slot->sent);
            client->out--;
        }
        *slot = (struct slot){time, client->next++, client->due[i]};
        parts[i][0] = (struct iovec){&slot->id, sizeof slot->id};
        parts[i][1] = (struct iovec){name->query, name->length};
        messages[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = parts[i], .msg_iovlen = 2}};
    }
    client->out += client->dues;
    sent += counts(time) ? client->dues : 0;
    for (int done = 0; done < client->dues;) {
        int count = sendmmsg(client->fd, messages + done, client->dues - done, 0);
        check(count >= 0 || errno == ENOBUFS || errno == EAGAIN, "nobody listens");
        done += count > 0 ? count : 1;
    }
    client->dues = 0;
}

static void add_due(struct client *client)
{
    client->due[client->dues++] = chance() % name_count;
    if (client->dues == BATCH)
        send_due(client);
}

static void send_dues(void)
{
    for (int i = 0; i < client_count; i++)
        if (clients[i].dues)
            send_due(&clients[i]);
}

static void fill_windows(int window)
{
    for (int i = 0; i < client_count; i++)
        while (clients[i].out + clients[i].dues < window)
            add_due(&clients[i]);
    send_dues();
}

/* Send what is due by now; returns when the next query is. */
static uint64_t keep_pace(double rate, uint64_t time)
{
    static double next;
    if (next == 0)
        next = time;
    while (next <= time) {
        add_due(&clients[chance() % client_count]);
        next -= log((chance() % (1 << 24) + 1) / (double)(1 << 24)) / rate * 1e9;
    }
    send_dues();
    return next;
}

static void open_client(struct client *client, const char *server)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(DNS_PORT)};
    int size = BUFFER_BYTES;
    client->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    check(client->fd >= 0, "socket");
    check(inet_pton(AF_INET, server, &address.sin_addr) == 1, "not an IPv4 address");
    check(setsockopt(client->fd, SOL_SOCKET, SO_TIMESTAMPNS, &(int){1}, sizeof(int)) == 0, "SO_TIMESTAMPNS");
    check(setsockopt(client->fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) == 0, "SO_RCVBUFFORCE");
    check(connect(client->fd, (struct sockaddr *)&address, sizeof address) == 0, "connect");
}

/* Wait for answers, until a time at the latest, and take them. */
static void wait_for_answers(uint64_t latest)
{
    struct pollfd fds[MAX_CLIENTS];
    uint64_t time = now(), wait = latest > time ? latest - time : 0;
    struct timespec limit = {wait / 1000000000, wait % 1000000000};
    for (int i = 0; i < client_count; i++)
        fds[i] = (struct pollfd){.fd = clients[i].fd, .events = POLLIN};
    check(ppoll(fds, client_count, &limit, NULL) >= 0, "ppoll");
    for (int i = 0; i < client_count; i++)
        if (fds[i].revents)
            receive(&clients[i]);
    time = now();
    for (int i = 0; i < client_count; i++)
        forget_lost(&clients[i], time);
}

static int anything_out(void)
{
    for (int i = 0; i < client_count; i++)
        if (clients[i].out)
            return 1;
    return 0;
}

static int compare(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

/* `window` queries per client, or, if that is 0, `rate` per second. */
static void ask(pid_t server, int window, double rate, double warmup, double seconds)
{
    clockid_t clock;
    uint64_t server_ns = 0, client_ns = 0, time = now(), began = 0;
    check((errno = clock_getcpuclockid(server, &clock)) == 0, "the server's processor time");
    from = time + warmup * 1e9;
    until = from + seconds * 1e9;
    while ((time = now()) < until) {
        if (!began && time >= from) {
            server_ns = clock_ns(clock);
            client_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
            began = time;
        }
        uint64_t wake = time + LOST_NS / 10;
        if (window) {
            fill_windows(window);
        } else {
            uint64_t next = keep_pace(rate, time);
            wake = next < wake ? next : wake;
        }
        if (wake > until)
            wake = until;
        if (!began && wake > from)
            wake = from;
        wait_for_answers(wake);
    }
    server_ns = clock_ns(clock) - server_ns;
    client_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - client_ns;
    while (anything_out())
        wait_for_answers(now() + LOST_NS / 10);
    errno = 0;
    check(samples > 0, "not one answer in time");
    qsort(samples_ns, samples, sizeof *samples_ns, compare);
    printf("{\"answered\": %llu, \"seconds\": %.6f, \"sent\": %llu, \"lost\": %llu, \"p50_us\": %.1f, \"p99_us\": %.1f,"
           " \"server_cpu_s\": %.6f, \"client_cpu_s\": %.6f}\n",
           answered, seconds, sent, lost, samples_ns[samples / 2] / 1e3, samples_ns[samples * 99 / 100] / 1e3,
           server_ns / 1e9, client_ns / 1e9);
}

int main(int argc, char **argv)
{
    int busy = argc == 9 && strcmp(argv[1], "busy") == 0, paced = argc == 9 && strcmp(argv[1], "paced") == 0;
    check(busy || paced, "what to do? See the top of dns_load.c");
    double rate = atof(argv[6]), warmup = atof(argv[7]), seconds = atof(argv[8]);
    int window = busy ? (int)rate : 0;
    client_count = atoi(argv[5]);
    check(client_count >= 1 && client_count <= MAX_CLIENTS, "the number of clients");
    check(rate >= 1 && window <= MAX_WINDOW, "the window or the rate");
    signal(SIGALRM, out_of_time);
    alarm((unsigned)(warmup + seconds) + GRACE_S);
    check(prctl(PR_SET_TIMERSLACK, 1000) == 0, "PR_SET_TIMERSLACK"); /* else each wait is 50 µs longer */
    samples_ns = calloc(MAX_SAMPLES, sizeof *samples_ns);
    check(samples_ns != NULL, "calloc");
    read_names(argv[2]);
    for (int i = 0; i < client_count; i++)
        open_client(&clients[i], argv[3]);
    ask(atoi(argv[4]), window, rate, warmup, seconds);
    return 0;
}
