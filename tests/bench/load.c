/* What wrk and h2load can't do, against 127.0.0.1, in one thread.
 *
 * load fixed   PORT HOST RATE CONNECTIONS SECONDS
 *     An open loop: request i is due at start + i/RATE whether or not earlier
 *     answers have come, and its latency counts from then. Request i belongs
 *     to connection i mod CONNECTIONS and waits there behind the one before.
 * load hold    PORT HOST CONNECTIONS REQUESTS
 *     Opens the connections, makes REQUESTS on each, says "held", waits for
 *     the end of standard input and says how many are still open.
 * load connect PORT HOST SECONDS
 *     A new connection for each request, one after the other.
 *
 * The result is one line of JSON. An answer that is not a 200 with a
 * Content-Length ends the run with exit code 1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define CAP 65536

struct client {
    int fd;
    uint64_t next, sent;  /* the request to send next; the one on the way + 1, or 0 */
    size_t held;
    char buffer[CAP];
};

static struct sockaddr_in target;
static char request[512];
static size_t request_size;

static void die(const char *what)
{
    fprintf(stderr, "load: %s%s%s\n", what, errno ? ": " : "", errno ? strerror(errno) : "");
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int dial(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&target, sizeof target))
        die("can't connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct timeval patience = {.tv_sec = 10};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return fd;
}

/* The size of the answer at the start of the buffer, or 0 if it is not whole. */
static size_t whole(const char *buffer, size_t held)
{
    const char *end = memmem(buffer, held, "\r\n\r\n", 4);
    if (!end)
        return 0;
    errno = 0;
    if (held < 12 || memcmp(buffer, "HTTP/1.1 200", 12) != 0)
        die("the answer is not a 200");
    for (const char *line = buffer; line < end; line = memmem(line, (size_t)(end + 2 - line), "\r\n", 2) + 2)
        if (strncasecmp(line, "content-length:", 15) == 0) {
            size_t size = (size_t)(end - buffer) + 4 + strtoul(line + 15, NULL, 10);
            return held >= size ? size : 0;
        }
    die("the answer has no Content-Length");
    return 0;
}

static void send_request(int fd)
{
    if (send(fd, request, request_size, MSG_NOSIGNAL) != (ssize_t)request_size)
        die("can't send");
}

/* Reads once. Returns whether an answer is whole; it is dropped from the buffer. */
static int receive(struct client *c, int flags)
{
    ssize_t n = recv(c->fd, c->buffer + c->held, CAP - c->held, flags);
    if (n < 0 && errno == EAGAIN && flags)
        return 0;
    if (n <= 0)
        die(n ? "no answer" : "the connection was closed");
    c->held += (size_t)n;
    size_t size = whole(c->buffer, c->held);
    if (size == 0)
        return 0;
    c->held -= size;
    memmove(c->buffer, c->buffer + size, c->held);
    return 1;
}

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void fixed(uint64_t rate, uint64_t count, uint64_t seconds)
{
    uint64_t total = rate * seconds, done = 0, step = 1000000000u / rate;
    struct client *clients = calloc(count, sizeof *clients);
    uint32_t *latency = calloc(total, sizeof *latency);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!clients || !latency || total == 0 || count == 0)
        die("bad arguments");
    for (uint64_t i = 0; i < count; i++) {
        clients[i] = (struct client){.fd = dial(), .next = i};
        struct epoll_event e = {.events = EPOLLIN, .data.u64 = i};
        epoll_ctl(epoll, EPOLL_CTL_ADD, clients[i].fd, &e);
    }
    uint64_t start = now_ns() + 10000000, due = 0, last = start + (seconds + 10) * 1000000000u;
    while (done < total) {
        uint64_t now = now_ns();
        if (now > last)
            die("answers are missing 10 s after the end");
        for (; due < total && start + due * step <= now; due++) {
            struct client *c = &clients[due % count];
            if (!c->sent && c->next == due) {
                send_request(c->fd);
                c->sent = due + 1;
            }
        }
        now = now_ns();
        uint64_t until = due < total ? start + due * step : now + 100000000;
        uint64_t wait = until > now ? until - now : 0;
        struct timespec patience = {(time_t)(wait / 1000000000u), (long)(wait % 1000000000u)};
        struct epoll_event events[64];
        int n = epoll_pwait2(epoll, events, 64, &patience, NULL);
        for (int i = 0; i < n; i++) {
            struct client *c = &clients[events[i].data.u64];
            if (!receive(c, MSG_DONTWAIT))
                continue;
            if (!c->sent) {
                errno = 0;
                die("an answer that nobody asked for");
            }
            latency[done++] = (uint32_t)((now_ns() - start - (c->sent - 1) * step) / 1000);
            c->next = c->sent - 1 + count;
            c->sent = 0;
            if (c->next < due) {
                send_request(c->fd);
                c->sent = c->next + 1;
            }
        }
    }
    double took = (double)(now_ns() - start) / 1e9;
    qsort(latency, total, sizeof *latency, by_size);
    printf("{\"requests\": %lu, \"seconds\": %.3f, \"p50\": %u, \"p99\": %u, \"p999\": %u, \"max\": %u}\n",
           total, took, latency[total / 2], latency[total * 99 / 100],
           latency[total * 999 / 1000], latency[total - 1]);
}

static void hold(uint64_t count, uint64_t requests)
{
    static struct client c;
    int *all = calloc(count, sizeof *all);
    for (uint64_t i = 0; i < count; i++) {
        c = (struct client){.fd = all[i] = dial()};
        for (uint64_t r = 0; r < requests; r++) {
            send_request(c.fd);
            while (!receive(&c, 0))
                ;
        }
    }
    printf("held\n");
    fflush(stdout);
    char rest[64];
    while (read(0, rest, sizeof rest) > 0)
        ;
    uint64_t open = 0;
    for (uint64_t i = 0; i < count; i++)
        open += recv(all[i], rest, 1, MSG_DONTWAIT | MSG_PEEK) < 0 && errno == EAGAIN;
    printf("{\"held\": %lu, \"open\": %lu}\n", count, open);
}

static void connect_each(uint64_t seconds)
{
    static struct client c;
    uint64_t start = now_ns(), end = start + seconds * 1000000000u, done = 0;
    /* No TIME_WAIT: the ports of one client would run out. */
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    while (now_ns() < end) {
        c.fd = dial();
        c.held = 0;
        send_request(c.fd);
        while (!receive(&c, 0))
            ;
        setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        close(c.fd);
        done++;
    }
    printf("{\"requests\": %lu, \"seconds\": %.3f}\n", done, (double)(now_ns() - start) / 1e9);
}

int main(int argc, char **argv)
{
    uint64_t n[3] = {0};
    if (argc < 5) {
        fprintf(stderr, "usage: load fixed|hold|connect PORT HOST NUMBER...\n");
        return 2;
    }
    for (int i = 0; i < 3 && i + 4 < argc; i++)
        n[i] = strtoull(argv[i + 4], NULL, 10);
    target = (struct sockaddr_in){.sin_family = AF_INET,
                                  .sin_port = htons((unsigned short)atoi(argv[2])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    request_size = (size_t)snprintf(request, sizeof request, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", argv[3]);
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    if (strcmp(argv[1], "fixed") == 0 && argc == 7)
        fixed(n[0], n[1], n[2]);
    else if (strcmp(argv[1], "hold") == 0 && argc == 6)
        hold(n[0], n[1]);
    else if (strcmp(argv[1], "connect") == 0 && argc == 5)
        connect_each(n[0]);
    else
        die("wrong arguments");
    return 0;
}
