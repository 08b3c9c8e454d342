/* fanload: publishers and subscribers of one broker, MQTT 3.1.1 (epoll, one thread).
 * usage: fanload PORT PUBLISHERS SUBSCRIBERS WINDOW QOS PAYLOAD SECONDS PAIRED
 *
 * Publisher p publishes to fan/p/temp. Every subscriber has fan/+/temp; PAIRED: subscriber s only
 * fan/s/temp. A publisher has at most WINDOW messages that have not reached all their subscribers:
 * nothing is ever flooded, so nothing need be dropped, at QoS 0 either. Subscribers acknowledge
 * (QoS 1) all messages of a read with one write.
 * Prints one line: deliveries/s, their count, the time; p50 and p99 in us from the write of a
 * message to its arrival at a subscriber; how often a message came twice or out of order.
 * PAYLOAD >= 16: publisher's number and message's number (4 bytes each), time of sending in us (8).
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
#define STALLED_S 20.0
#define PORTS_EACH 20000 /* connections from one source address */

typedef struct {
    int fd, is_publisher;
    uint32_t number;
    unsigned char *in, *out;
    size_t in_bytes, out_bytes, out_at, out_room;
    uint32_t sent, completed; /* of a publisher: messages */
    uint32_t *left;           /* of each message in the window: deliveries to come */
    uint32_t *seen;           /* of a subscriber: per publisher, the next message's number */
    uint16_t packet_id;
    int wants_out;
} Client;

static int port, publishers, subscribers, window, qos, payload, paired, poller;
static Client *clients;
static uint64_t delivered, disordered;
static float *latency;
static size_t latency_count, latency_max = 1 << 22;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void fail(const char *what, const Client *c) {
    fprintf(stderr, "%s: %s %u (%s)\n", what, c->is_publisher ? "publisher" : "subscriber",
            c->number, strerror(errno));
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

static void watch(Client *c, int wants_out) {
    if (c->wants_out == wants_out) return;
    c->wants_out = wants_out;
    struct epoll_event e = {.events = EPOLLIN | (wants_out ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e)) fail("epoll_ctl", c);
}

static void flush(Client *c) {
    while (c->out_at < c->out_bytes) {
        ssize_t n = write(c->fd, c->out + c->out_at, c->out_bytes - c->out_at);
        if (n < 0) {
            if (errno != EAGAIN) fail("write", c);
            break;
        }
        c->out_at += n;
    }
    if (c->out_at == c->out_bytes) c->out_at = c->out_bytes = 0;
    watch(c, c->out_bytes > 0);
}

static unsigned char *room(Client *c, size_t bytes) {
    if (c->out_bytes + bytes > c->out_room) {
        c->out_room = 2 * (c->out_bytes + bytes);
        c->out = realloc(c->out, c->out_room);
    }
    return c->out + c->out_bytes;
}

static void publish(Client *c) {
    char topic[64];
    size_t topic_bytes = snprintf(topic, sizeof topic, "fan/%u/temp", c->number);
    uint64_t time_us = now() * 1e6;
    while (c->sent - c->completed < (uint32_t)window) {
        unsigned char *start = room(c, payload + 128), *p = start;
        *p++ = 0x30 | qos << 1;
        p += put_length(p, 2 + topic_bytes + (qos ? 2 : 0) + payload);
        *p++ = topic_bytes >> 8;
        *p++ = topic_bytes;
        memcpy(p, topic, topic_bytes);
        p += topic_bytes;
        if (qos) {
            if (++c->packet_id == 0) c->packet_id = 1;
            *p++ = c->packet_id >> 8;
            *p++ = c->packet_id;
        }
        memset(p, 'x', payload);
        memcpy(p, &c->number, 4);
        memcpy(p + 4, &c->sent, 4);
        memcpy(p + 8, &time_us, 8);
        c->out_bytes += p + payload - start;
        c->left[c->sent++ % window] = paired ? 1 : subscribers;
    }
    flush(c);
}

/* One PUBLISH that reached `c`; its acknowledgement goes behind the others of this read. */
static void arrived(Client *c, const unsigned char *body, const unsigned char *end, uint64_t at_us) {
    const unsigned char *p = body + 2 + (body[0] << 8 | body[1]);
    if (qos) {
        unsigned char *ack = room(c, 4);
        ack[0] = 0x40, ack[1] = 2, ack[2] = p[0], ack[3] = p[1];
        c->out_bytes += 4;
        p += 2;
    }
    if (end - p != payload) fail("a message of another size", c);
    uint32_t from, number;
    uint64_t sent_us;
    memcpy(&from, p, 4);
    memcpy(&number, p + 4, 4);
    memcpy(&sent_us, p + 8, 8);
    if (c->seen[from] != number) disordered++;
    c->seen[from] = number + 1;
    delivered++;
    /* every 7th is enough, and fits at millions a second */
    if (delivered % 7 == 0 && latency_count < latency_max) latency[latency_count++] = at_us - sent_us;
    Client *source = &clients[from];
    source->left[number % window]--;
    while (source->completed < source->sent && !source->left[source->completed % window])
        source->completed++;
}

static void receive(Client *c) {
    ssize_t n = read(c->fd, c->in + c->in_bytes, READ_BYTES - c->in_bytes);
    if (n == 0) errno = 0, fail("closed by the server", c);
    if (n < 0) {
        if (errno == EAGAIN) return;
        fail("read", c);
    }
    c->in_bytes += n;
    uint64_t at_us = now() * 1e6;
    unsigned char *p = c->in, *end = c->in + c->in_bytes;
    while (end - p >= 2) {
        size_t size = 0, head = 1;
        int shift = 0;
        while (p + head < end && head < 5) {
            size |= (size_t)(p[head] & 0x7f) << shift;
            shift += 7;
            if (!(p[head++] & 0x80)) goto whole;
        }
        break;
    whole:
        if ((size_t)(end - p) < head + size) break;
        if ((p[0] & 0xf0) == 0x30) arrived(c, p + head, p + head + size, at_us);
        p += head + size;
    }
    c->in_bytes = end - p;
    memmove(c->in, p, c->in_bytes);
    if (c->out_bytes) flush(c);
}

static void expect(Client *c, unsigned char kind, size_t bytes) {
    unsigned char answer[16];
    size_t got = 0;
    while (got < bytes) {
        ssize_t n = read(c->fd, answer + got, bytes - got);
        if (n <= 0) fail("no answer", c);
        got += n;
    }
    if (answer[0] != kind || answer[bytes - 1] >= 0x80 || (kind == 0x20 && answer[3]))
        fail("refused", c);
}

static void join(Client *c, int index) {
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(port)}, source = server;
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    source.sin_port = 0;
    source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + index / PORTS_EACH);
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || bind(c->fd, (void *)&source, sizeof source)) fail("socket", c);
    if (connect(c->fd, (void *)&server, sizeof server)) fail("connect", c);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    char id[64];
    size_t id_bytes = snprintf(id, sizeof id, "fan-%s-%u", c->is_publisher ? "p" : "s", c->number);
    unsigned char packet[128] = {0x10, 12 + id_bytes, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0, 0, id_bytes};
    memcpy(packet + 14, id, id_bytes);
    if (write(c->fd, packet, 14 + id_bytes) < 0) fail("write", c);
    expect(c, 0x20, 4);
    c->in = malloc(READ_BYTES);
    if (c->is_publisher) {
        c->left = calloc(window, sizeof *c->left);
    } else {
        c->seen = calloc(publishers, sizeof *c->seen);
        char filter[64] = "fan/+/temp";
        if (paired) snprintf(filter, sizeof filter, "fan/%u/temp", c->number);
        size_t bytes = strlen(filter);
        unsigned char subscribe[128] = {0x82, 5 + bytes, 0, 1, 0, bytes};
        memcpy(subscribe + 6, filter, bytes);
        subscribe[6 + bytes] = qos;
        if (write(c->fd, subscribe, 7 + bytes) < 0) fail("write", c);
        expect(c, 0x90, 5);
    }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &e);
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv) {
    if (argc != 9) {
        fprintf(stderr, "usage: fanload PORT PUBLISHERS SUBSCRIBERS WINDOW QOS PAYLOAD SECONDS PAIRED\n");
        return 2;
    }
    port = atoi(argv[1]), publishers = atoi(argv[2]), subscribers = atoi(argv[3]);
    window = atoi(argv[4]), qos = atoi(argv[5]), payload = atoi(argv[6]);
    double seconds = atof(argv[7]);
    paired = atoi(argv[8]);
    if (payload < 16 || (paired && publishers != subscribers)) return 2;
    latency = malloc(latency_max * sizeof *latency);
    clients = calloc(publishers + subscribers, sizeof *clients);
    poller = epoll_create1(0);
    for (int i = publishers + subscribers - 1; i >= 0; i--) {
        clients[i].is_publisher = i < publishers;
        clients[i].number = i < publishers ? i : i - publishers;
        join(&clients[i], i);
    }
    double began = now(), end = began + seconds, progress_at = began;
    uint64_t progress = 0;
    struct epoll_event events[256];
    if (seconds > 0)
        for (int i = 0; i < publishers; i++) publish(&clients[i]);
    while (now() < end) {
        int count = epoll_wait(poller, events, 256, 100);
        for (int i = 0; i < count; i++) {
            Client *c = events[i].data.ptr;
            if (events[i].events & EPOLLIN) receive(c);
            if (events[i].events & EPOLLOUT) flush(c);
            if (events[i].events & (EPOLLHUP | EPOLLERR)) fail("connection dropped", c);
        }
        /* Every publisher whose window opened in this turn: its messages are one write. */
        for (int i = 0; i < publishers; i++)
            if (clients[i].sent - clients[i].completed < (uint32_t)window && !clients[i].out_bytes)
                publish(&clients[i]);
        if (delivered != progress) progress = delivered, progress_at = now();
        if (now() - progress_at > STALLED_S) {
            fprintf(stderr, "stalled after %lu deliveries\n", (unsigned long)delivered);
            return 1;
        }
    }
    double took = now() - began;
    qsort(latency, latency_count, sizeof *latency, by_value);
    printf("%.0f deliveries/s n=%lu %.6fs p50=%.0fus p99=%.0fus disordered=%lu\n", delivered / took,
           (unsigned long)delivered, took, latency_count ? latency[latency_count / 2] : 0,
           latency_count ? latency[(size_t)(latency_count * 0.99)] : 0, (unsigned long)disordered);
    return 0;
}
