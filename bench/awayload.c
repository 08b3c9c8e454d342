/* awayload: MQTT 5.0 clients with persistent sessions that go, and come back (epoll, one thread).
 * usage: awayload PORT ACTION CLIENTS QOS EXPECTED SECONDS FILTER PREFIX
 *
 * Client number n is PREFIX-n. FILTER may hold one %u, which becomes n.
 * ACTION leave:  connects with a session that does not expire, subscribes, disconnects.
 *        return: connects to that session, all at once, and takes and acknowledges messages until
 *                each client has had EXPECTED of them.
 *        replay: connects without a session, subscribes with the user property from=earliest, and
 *                takes messages likewise.
 * Prints one line: messages, the time from the first connect to the last message, the time until
 * the first client had all, how often a message came twice or out of order for its client and topic.
 * Payloads begin with 8 bytes: the message's number, little-endian. What comes in SECONDS counts;
 * exit 1 if that is not all. Then 0.3 s are waited for what should not come.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define READ_BYTES (256 * 1024)
#define AFTER_S 0.3
#define TOPICS (1 << 17) /* places for the last number of a topic, by hash */

typedef struct {
    int fd;
    uint32_t number;
    unsigned char *in;
    size_t in_bytes, in_room;
    unsigned char *out;
    size_t out_bytes, out_room;
    uint64_t got;
    struct { uint64_t topic, next; } *last;
    int ready;
} Client;

static int port, poller, qos, action; /* 'l', 'r' (return), 'p' (replay) */
static uint64_t expected, delivered, disordered, extra;
static uint32_t clients_count, done;
static double began, last_s, first_done_s;
static const char *filter, *prefix;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void fail(const char *what, const Client *c) {
    fprintf(stderr, "%s: client %u (%s), %lu messages\n", what, c->number, strerror(errno),
            (unsigned long)delivered);
    exit(1);
}

static size_t put_length(unsigned char *p, size_t value) {
    size_t n = 0;
    do {
        unsigned char digit = value & 0x7f;
        value >>= 7;
        p[n++] = value ? digit | 0x80 : digit;
    } while (value);
    return n;
}

static unsigned char *put_text(unsigned char *p, const char *text) {
    size_t n = strlen(text);
    *p++ = n >> 8;
    *p++ = n;
    memcpy(p, text, n);
    return p + n;
}

static void put(Client *c, const void *data, size_t bytes) {
    if (c->out_bytes + bytes > c->out_room) {
        c->out_room = 2 * (c->out_bytes + bytes);
        c->out = realloc(c->out, c->out_room);
    }
    memcpy(c->out + c->out_bytes, data, bytes);
    c->out_bytes += bytes;
}

static void packet(Client *c, unsigned char first, const unsigned char *body, size_t bytes) {
    unsigned char head[5] = {first};
    put(c, head, 1 + put_length(head + 1, bytes));
    put(c, body, bytes);
}

static void flush(Client *c) {
    size_t at = 0;
    while (at < c->out_bytes) {
        ssize_t n = write(c->fd, c->out + at, c->out_bytes - at);
        if (n < 0 && errno != EAGAIN) fail("write", c);
        if (n < 0) break;
        at += n;
    }
    memmove(c->out, c->out + at, c->out_bytes - at);
    c->out_bytes -= at;
}

static void hello(Client *c) {
    unsigned char body[256], *p = body;
    char id[64];
    p = put_text(p, "MQTT");
    *p++ = 5;
    *p++ = action == 'p' ? 2 : 0; /* clean start */
    *p++ = 0, *p++ = 0;           /* keep alive: none */
    *p++ = 5;                     /* properties */
    *p++ = 0x11;                  /* session expiry */
    memset(p, action == 'p' ? 0 : 0xff, 4);
    p += 4;
    snprintf(id, sizeof id, "%s-%u", prefix, c->number);
    p = put_text(p, id);
    packet(c, 0x10, body, p - body);
}

static void subscribe(Client *c) {
    unsigned char body[512], *p = body;
    char text[256];
    *p++ = 0, *p++ = 1;
    if (action == 'p') {
        unsigned char *length = p++;
        *p++ = 0x26;
        p = put_text(p, "from");
        p = put_text(p, "earliest");
        *length = p - length - 1;
    } else {
        *p++ = 0;
    }
    snprintf(text, sizeof text, filter, c->number);
    p = put_text(p, text);
    *p++ = qos;
    packet(c, 0x82, body, p - body);
}

static void ready(Client *c) {
    if (c->ready) return;
    c->ready = 1;
    if (action == 'l') {
        unsigned char bye[] = {0xe0, 0};
        put(c, bye, sizeof bye);
        done++;
    }
}

static void arrived(Client *c, int first, const unsigned char *p, const unsigned char *end) {
    size_t topic_bytes = p[0] << 8 | p[1];
    uint64_t topic = 14695981039346656037u;
    for (size_t i = 0; i < topic_bytes; i++) topic = (topic ^ p[2 + i]) * 1099511628211u;
    p += 2 + topic_bytes;
    if (first & 6) {
        unsigned char ack[4] = {0x40, 2, p[0], p[1]};
        put(c, ack, 4);
        p += 2;
    }
    size_t properties = 0, shift = 0;
    do properties |= (size_t)(*p & 0x7f) << shift, shift += 7;
    while (*p++ & 0x80);
    p += properties;
    if (end - p < 8) fail("a message too short", c);
    uint64_t number;
    memcpy(&number, p, 8);
    size_t places = clients_count > 1 ? 8 : TOPICS, at = topic % places;
    while (c->last[at].topic && c->last[at].topic != topic) at = (at + 1) % places;
    if (number < c->last[at].next) disordered++;
    c->last[at].topic = topic;
    c->last[at].next = number + 1;
    if (c->got >= expected) extra++;
    delivered++;
    if (++c->got == expected) {
        last_s = now() - began;
        if (!done++) first_done_s = last_s;
    }
}

static void take(Client *c, int first, const unsigned char *p, const unsigned char *end) {
    int kind = first >> 4;
    if (kind == 2) {
        if (p[1]) errno = p[1], fail("CONNACK", c);
        if (action == 'r') {
            if (!p[0]) fail("no session", c);
            ready(c);
        } else {
            subscribe(c);
        }
    } else if (kind == 9) {
        if (end[-1] & 0x80) errno = end[-1], fail("SUBACK", c);
        ready(c);
    } else if (kind == 3) {
        arrived(c, first, p, end);
    } else if (kind == 14) {
        errno = end > p ? p[0] : 0;
        fail("DISCONNECT", c);
    }
}

static void receive(Client *c) {
    for (;;) {
        if (c->in_room - c->in_bytes < READ_BYTES / 4)
            c->in = realloc(c->in, c->in_room = c->in_bytes + READ_BYTES / (clients_count > 1 ? 4 : 1));
        ssize_t n = read(c->fd, c->in + c->in_bytes, c->in_room - c->in_bytes);
        if (n < 0 && errno == EAGAIN) break;
        if (n <= 0) {
            if (action == 'l' && c->ready) {
                epoll_ctl(poller, EPOLL_CTL_DEL, c->fd, 0);
                return;
            }
            fail("closed", c);
        }
        c->in_bytes += n;
        unsigned char *p = c->in, *end = c->in + c->in_bytes;
        while (end - p >= 2) {
            size_t length = 0, at = 1;
            for (int shift = 0; at < (size_t)(end - p); shift += 7) {
                length |= (size_t)(p[at] & 0x7f) << shift;
                if (!(p[at++] & 0x80)) break;
            }
            if (p[at - 1] & 0x80 || (size_t)(end - p) < at + length) break;
            take(c, p[0], p + at, p + at + length);
            p += at + length;
        }
        memmove(c->in, p, c->in_bytes = end - p);
        flush(c);
    }
}

int main(int argc, char **argv) {
    if (argc != 9) return fprintf(stderr, "see the top of awayload.c\n"), 2;
    port = atoi(argv[1]);
    action = argv[2][0] == 'l' ? 'l' : argv[2][2] == 't' ? 'r' : 'p';
    clients_count = atoi(argv[3]);
    qos = atoi(argv[4]);
    expected = strtoull(argv[5], 0, 10);
    double seconds = atof(argv[6]);
    filter = argv[7];
    prefix = argv[8];
    poller = epoll_create1(0);
    Client *clients = calloc(clients_count, sizeof *clients);
    began = now();
    for (uint32_t i = 0; i < clients_count; i++) {
        Client *c = &clients[i];
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
        to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        c->number = i;
        c->last = calloc(clients_count > 1 ? 8 : TOPICS, sizeof *c->last);
        c->fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(c->fd, (struct sockaddr *)&to, sizeof to)) fail("connect", c);
        int one = 1;
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        fcntl(c->fd, F_SETFL, O_NONBLOCK);
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &e);
        hello(c);
        flush(c);
    }
    double until = began + seconds, after = 0;
    struct epoll_event events[512];
    for (;;) {
        int n = epoll_wait(poller, events, 512, 50);
        for (int i = 0; i < n; i++) receive(events[i].data.ptr);
        double t = now();
        if (done == clients_count && !after) after = t + AFTER_S;
        if ((after && t >= after) || t >= until) break;
    }
    printf("%lu messages %.4f s, first %.4f s, disordered=%lu extra=%lu done=%u\n",
           (unsigned long)delivered, last_s, first_done_s, (unsigned long)disordered,
           (unsigned long)extra, done);
    return done == clients_count ? 0 : 1;
}
