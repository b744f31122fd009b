/* The service behind every proxy: one thread, epoll, HTTP/1.1 keep-alive.
 *
 * usage: backend PORT
 *
 * Answers each GET with 1 KiB, or with 1 MiB where the path ends in "/big".
 * Requests with a body are not expected: the benchmark sends none. It does as
 * little as it can, so that it is never what is measured.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEAD_CAP 16384
#define CONNECTIONS 65536
#define BIG (1 << 20)

struct connection {
    size_t held;            /* bytes of an unfinished head */
    const char *pending;    /* what is left to write of an answer */
    size_t left;
    char head[HEAD_CAP];
};

static struct connection *table[CONNECTIONS];
static char small_answer[2048], *big_answer;
static size_t small_size, big_size;

static size_t answer(char *into, size_t body)
{
    int head = sprintf(into,
                       "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
                       "Server: bench\r\nContent-Length: %zu\r\n\r\n", body);
    memset(into + head, 'x', body);
    return (size_t)head + body;
}

static void drop(int fd)
{
    free(table[fd]);
    table[fd] = NULL;
    close(fd);
}

/* Writes what is pending. 1: all is out, 0: the socket is full, -1: gone. */
static int flush(int fd, struct connection *c)
{
    while (c->left > 0) {
        ssize_t n = send(fd, c->pending, c->left, MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN ? 0 : -1;
        c->pending += n;
        c->left -= (size_t)n;
    }
    return 1;
}

static int is_big(const char *head, size_t size)
{
    const char *space = memchr(head, ' ', size);
    if (!space)
        return 0;
    const char *end = memchr(space + 1, ' ', size - (size_t)(space + 1 - head));
    return end && end - space > 4 && memcmp(end - 4, "/big", 4) == 0;
}

/* Answers each whole head that is held. Returns as flush does. */
static int serve(int fd, struct connection *c)
{
    int state = flush(fd, c);
    while (state == 1) {
        char *end = memmem(c->head, c->held, "\r\n\r\n", 4);
        if (!end)
            return c->held == HEAD_CAP ? -1 : 1;
        size_t size = (size_t)(end - c->head) + 4;
        int big = is_big(c->head, size);
        c->pending = big ? big_answer : small_answer;
        c->left = big ? big_size : small_size;
        c->held -= size;
        memmove(c->head, c->head + size, c->held);
        state = flush(fd, c);
    }
    return state;
}

/* Edge-triggered: a short read means that the socket is empty, unless its end
 * came in the same event. */
static void ready(int fd, struct connection *c, int ended)
{
    for (;;) {
        int state = serve(fd, c);
        if (state < 0) {
            drop(fd);
            return;
        }
        if (state == 0)
            return; /* EPOLLOUT comes when there is room */
        size_t room = HEAD_CAP - c->held;
        ssize_t n = recv(fd, c->head + c->held, room, 0);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            drop(fd);
            return;
        }
        c->held += (size_t)n;
        if ((size_t)n < room && !ended) {
            if (serve(fd, c) < 0)
                drop(fd);
            return;
        }
    }
}

static void accept_all(int epoll, int listener)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        if (fd >= CONNECTIONS || !(table[fd] = calloc(1, sizeof **table))) {
            close(fd);
            continue;
        }
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.fd = fd};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: backend PORT\n");
        return 2;
    }
    small_size = answer(small_answer, 1024);
    big_answer = malloc(BIG + 1024);
    big_size = answer(big_answer, BIG);

    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons((unsigned short)atoi(argv[1])),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 4096)) {
        perror("backend");
        return 1;
    }
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listener}, events[256];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        int n = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                accept_all(epoll, listener);
            else if (table[fd])
                ready(fd, table[fd], (events[i].events & ~(EPOLLIN | EPOLLOUT)) != 0);
        }
    }
}
