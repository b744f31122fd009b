/* Streams of bytes for the measure of opaque TCP.
 *
 * usage: stream sink PORT              takes and discards what comes
 *        stream send PORT SECONDS N    1 MiB writes on N connections; tells the bytes
 *        stream relay PORT TO          a plain relay to measure against: one thread,
 *                                      epoll, a buffer for each direction (as large as
 *                                      Pillion's), read and write
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MIB (1 << 20)
#define BUFFER (256 * 1024)
#define MOST 64

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static struct sockaddr_in loopback(const char *port)
{
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(port)),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static int listen_on(const char *port)
{
    struct sockaddr_in at = loopback(port);
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 64))
        fail("listen");
    return fd;
}

static int connect_to(const char *port)
{
    struct sockaddr_in at = loopback(port);
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&at, sizeof at))
        fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static void sink(const char *port)
{
    static char block[MIB];
    int listener = listen_on(port), set = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, ready[MOST];
    epoll_ctl(set, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(set, ready, MOST, -1);
        for (int i = 0; i < count; i++) {
            int fd = ready[i].data.fd;
            if (fd == listener) {
                event.data.fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (event.data.fd >= 0)
                    epoll_ctl(set, EPOLL_CTL_ADD, event.data.fd, &event);
            } else {
                /* Discarded by the kernel: the sink must not be what is measured. */
                ssize_t n = recv(fd, block, sizeof block, MSG_TRUNC);
                if (n == 0 || (n < 0 && errno != EAGAIN))
                    close(fd);
            }
        }
    }
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void send_for(const char *port, double seconds, int count)
{
    static char block[MIB];
    size_t left[MOST] = {0};
    unsigned long long bytes = 0;
    struct pollfd all[MOST];
    if (count < 1 || count > MOST)
        fail("connections");
    for (int i = 0; i < count; i++)
        all[i] = (struct pollfd){.fd = connect_to(port), .events = POLLOUT};
    double start = now();
    while (now() - start < seconds) {
        if (poll(all, (nfds_t)count, 10000) < 1)
            fail("poll");
        for (int i = 0; i < count; i++) {
            if (!all[i].revents)
                continue;
            if (left[i] == 0)
                left[i] = MIB;
            ssize_t n = send(all[i].fd, block + MIB - left[i], left[i], MSG_DONTWAIT | MSG_NOSIGNAL);
            if (n < 0 && errno != EAGAIN)
                fail("send");
            if (n > 0) {
                left[i] -= (size_t)n;
                bytes += (unsigned long long)n;
            }
        }
    }
    printf("{\"bytes\": %llu, \"seconds\": %.6f}\n", bytes, now() - start);
}

/* One direction: what was read from one end and is to be written to the other. */
struct half {
    int from, to, ended;
    size_t start, end;
    char buffer[BUFFER];
};

static int copy(struct half *h)
{
    for (;;) {
        while (h->start < h->end) {
            ssize_t n = send(h->to, h->buffer + h->start, h->end - h->start, MSG_NOSIGNAL);
            if (n < 0)
                return errno == EAGAIN ? 0 : -1;
            h->start += (size_t)n;
        }
        if (h->ended)
            return 1;
        ssize_t n = recv(h->from, h->buffer, BUFFER, 0);
        if (n < 0)
            return errno == EAGAIN ? 0 : -1;
        h->start = 0;
        h->end = (size_t)n;
        if (n == 0) {
            h->ended = 1;
            shutdown(h->to, SHUT_WR);
            return 1;
        }
    }
}

static void relay(const char *port, const char *to)
{
    int listener = listen_on(port), set = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, ready[MOST];
    epoll_ctl(set, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(set, ready, MOST, -1);
        for (int i = 0; i < count; i++) {
            struct half *pair = ready[i].data.ptr;
            if (pair == NULL) {
                int one = 1, a = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (a < 0)
                    continue;
                int b = connect_to(to);
                fcntl(b, F_SETFL, O_NONBLOCK);
                setsockopt(a, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                pair = calloc(2, sizeof *pair);
                pair[0].from = pair[1].to = a;
                pair[0].to = pair[1].from = b;
                event = (struct epoll_event){.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = pair};
                epoll_ctl(set, EPOLL_CTL_ADD, a, &event);
                epoll_ctl(set, EPOLL_CTL_ADD, b, &event);
            }
            int there = copy(&pair[0]), back = copy(&pair[1]);
            if (there < 0 || back < 0 || (there && back)) {
                close(pair[0].from);
                close(pair[0].to);
                /* The other end's event may still be at hand: a leak of a few KiB ends with the run. */
            }
        }
    }
}

int main(int count, char **words)
{
    if (count == 3 && !strcmp(words[1], "sink"))
        sink(words[2]);
    else if (count == 5 && !strcmp(words[1], "send"))
        send_for(words[2], atof(words[3]), atoi(words[4]));
    else if (count == 4 && !strcmp(words[1], "relay"))
        relay(words[2], words[3]);
    else
        return fprintf(stderr, "usage: see the top of stream.c\n"), 2;
    return 0;
}
