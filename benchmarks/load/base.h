/* What the parts of the load generator share: its members and chats, frames, sending. See load.c. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_PORTS = 16, RING = 64, EVENTS = 512, PER_ADDRESS = 20000, READ_BYTES = 1 << 18 };
enum { MAX_LATENCIES = 1 << 24, MAX_FRAME = 1 << 16, MAX_GREETING = 4096 };
static const uint64_t SECOND = 1000000000ull;
static const double CONNECT_SECONDS = 120, SETTLE_SECONDS = 0.3, DRAIN_SECONDS = 2;
static const unsigned char MASK[4] = {0x37, 0xfa, 0x21, 0x3d};

typedef enum { CONNECTING, UPGRADING, OPEN, READY, FETCHING, CLOSED } State;

typedef struct {
    int fd, chat, place; /* place 0 sends */
    State state;
    const char *greeting; /* NULL where there is none */
    size_t body; /* bytes of an HTTP response that are still to come */
    uint32_t got; /* frames of this phase */
    unsigned char *rest; /* the beginning of a frame whose end has not come yet */
    size_t held;
} Member;

typedef struct {
    uint32_t sent;      /* messages of this phase */
    uint64_t due[RING]; /* when each was due, by its number */
    unsigned char *message; /* a frame */
    size_t message_size;
} Chat;

static Member *members;
static Chat *chats;
static char **targets; /* a line each: request target, and then perhaps a greeting and a payload */
static int member_count, chat_count, per_chat = 2, ports[MAX_PORTS], port_count;
static const char *ready_text = "connected", *greeting;
static const char *payload = "{\"type\":\"typing\",\"isTyping\":true}";
static int engine_io, centrifugo, connecting = 256, first_address = 1, poller;

static Member *fetchers; /* the last one scrapes */
static int fetcher_count = 20, gone; /* of the fetchers */
static const char *fetch, *scrape, *header = "";
static uint64_t fetched, scraped, refused;

static int ready, failed, closed;
static int measuring, window; /* window 0: no flood */
static uint64_t sends, deliveries, bytes;
static uint32_t *latencies; /* ns */
static size_t latency_count;

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + t.tv_nsec;
}

static void die(const char *why) {
    fprintf(stderr, "load: %s\n", why);
    exit(2);
}

/* A masked frame, as clients have to send them (RFC 6455 section 5.3); returns its size. */
static size_t make_frame(unsigned char *out, int opcode, const void *data, size_t size) {
    size_t head = 2;
    out[0] = 0x80 | opcode;
    if (size < 126) {
        out[1] = 0x80 | size;
    } else {
        out[1] = 0x80 | 126;
        out[2] = size >> 8;
        out[3] = size & 255;
        head = 4;
    }
    memcpy(out + head, MASK, 4);
    for (size_t i = 0; i < size; i++) out[head + 4 + i] = ((const unsigned char *)data)[i] ^ MASK[i & 3];
    return head + 4 + size;
}

static void part(Member *m) {
    if (m->state == CLOSED) return;
    if (m->state == FETCHING) {
        gone++;
    } else {
        if (m->state == READY) ready--;
        else failed++;
        closed++;
    }
    m->state = CLOSED;
    close(m->fd);
    free(m->rest);
    m->rest = NULL;
    m->held = 0;
}

/* 1: the kernel took it; 0: it took nothing. A part of a frame can't be mended here and ends the member. */
static int put(Member *m, const void *data, size_t size) {
    ssize_t taken = send(m->fd, data, size, MSG_NOSIGNAL);
    if (taken == (ssize_t)size) return 1;
    if (taken < 0 && errno == EAGAIN) return 0;
    part(m);
    return 0;
}
