/* Puts WebSocket load on a server and measures what comes back. One thread, one epoll, no dependencies.
 *
 *   load --ports P[,P...] --targets FILE --per-chat N [options] PHASE...
 *
 * FILE has one request target per line ("/?token=..."), a member each; every N consecutive lines are one
 * chat. After a tab a line may have the member's own greeting, and after another what it sends, instead of
 * those of the options. Member m of a chat connects to port m modulo the number of ports. The first member of each chat is
 * its sender. All members connect (at most --connecting at a time), then the phases run one after the other:
 *
 *   flood:WINDOW:SECONDS   each chat keeps WINDOW messages in flight, paced by its second member's receipts
 *   rate:RATE:SECONDS      RATE messages a second in all, round robin over the chats, on a fixed schedule
 *   hold:SECONDS           nothing is sent
 *
 * Options:
 *   --payload TEXT     what a sender sends (default: a typing command)
 *   --ready TEXT       a member counts as ready when a frame holds it (default "connected"; "" means the 101)
 *   --greeting TEXT    sent once upgraded, by protocols that want a first word
 *   --engine-io        answer Engine.IO's pings (a text frame "2") with "3"
 *   --centrifugo       frames hold lines: of these a "push" is a delivery, "{}" a ping that is answered
 *   --from N           the first member connects from the N-th address of loopback (default 1, 127.0.0.1)
 *   --connecting N     handshakes at a time (default 256)
 *
 * What is counted: every text or binary frame that a member receives within a phase is a delivery, the
 * sender's own copy too where a server sends one. Latency is taken at each member but the sender: from the
 * moment when the message was due (its place in the schedule, so that a server that stalls can't hide what
 * waited meanwhile) to the member's receipt; the k-th receipt of a phase belongs to the k-th message.
 *
 * Output: a JSON line for the connects and one for each phase. On stderr, for whoever watches the server
 * meanwhile: "ready", and "begin" and "end" around each phase.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
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

typedef enum { CONNECTING, UPGRADING, OPEN, READY, CLOSED } State;

typedef struct {
    int fd, chat, place; /* place 0 sends */
    State state;
    const char *greeting; /* NULL where there is none */
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
    if (m->state == READY) ready--;
    else failed++;
    m->state = CLOSED;
    closed++;
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

static int send_message(Chat *chat, uint64_t due) {
    Member *sender = &members[(chat - chats) * per_chat];
    if (sender->state != READY || !put(sender, chat->message, chat->message_size)) return 0;
    chat->due[chat->sent % RING] = due;
    chat->sent++;
    sends++;
    return 1;
}

/* Sends what the window leaves room for. */
static void flood(Chat *chat) {
    Member *pacer = &members[(chat - chats) * per_chat + (per_chat > 1)];
    while (measuring && (int32_t)(chat->sent - pacer->got) < window)
        if (!send_message(chat, now())) return;
}

static void answer(Member *m, const char *text) {
    unsigned char frame[16];
    put(m, frame, make_frame(frame, 1, text, strlen(text)));
}

static void on_message(Member *m, const unsigned char *data, size_t size, uint64_t at) {
    if (engine_io && size == 1 && data[0] == '2') {
        answer(m, "3");
        return;
    }
    if (centrifugo && size == 2) {
        answer(m, "{}");
        return;
    }
    /* The reply to a command of its own is no delivery. */
    if (centrifugo && m->state == READY && (size < 7 || memcmp(data, "{\"push\"", 7))) return;
    if (m->state == OPEN) {
        if (memmem(data, size, ready_text, strlen(ready_text))) {
            m->state = READY;
            ready++;
        }
        return;
    }
    Chat *chat = &chats[m->chat];
    uint32_t number = m->got++;
    if (!measuring) return;
    deliveries++;
    bytes += size;
    if (m->place && (int32_t)(chat->sent - number) > 0 && chat->sent - number <= RING &&
        latency_count < MAX_LATENCIES) {
        uint64_t took = at - chat->due[number % RING];
        latencies[latency_count++] = took > UINT32_MAX ? UINT32_MAX : took;
    }
    if (window && m->place == (per_chat > 1)) flood(chat);
}

/* Centrifugo joins what it has to say with newlines. */
static void on_lines(Member *m, const unsigned char *data, size_t size, uint64_t at) {
    const unsigned char *end = data + size;
    while (data < end && m->state != CLOSED) {
        const unsigned char *stop = memchr(data, '\n', end - data);
        if (!stop) stop = end;
        if (stop > data) on_message(m, data, stop - data, at);
        data = stop + 1;
    }
}

static void upgraded(Member *m) {
    m->state = OPEN;
    if (m->greeting) {
        unsigned char frame[MAX_GREETING + 8];
        put(m, frame, make_frame(frame, 1, m->greeting, strlen(m->greeting)));
    }
    if (!*ready_text && m->state == OPEN) {
        m->state = READY;
        ready++;
    }
}

/* Handles what is whole; returns how many bytes that was. */
static size_t parse(Member *m, const unsigned char *data, size_t size, uint64_t at) {
    size_t done = 0;
    if (m->state == UPGRADING) {
        const unsigned char *end = memmem(data, size, "\r\n\r\n", 4);
        if (!end) return 0;
        if (!memmem(data, end - data, " 101 ", 5)) {
            part(m);
            return 0;
        }
        done = end - data + 4;
        upgraded(m);
    }
    while (m->state != CLOSED && size - done >= 2) {
        const unsigned char *frame = data + done;
        size_t length = frame[1] & 127, head = 2;
        if (length >= 126) {
            size_t digits = length == 126 ? 2 : 8;
            head += digits;
            if (size - done < head) break;
            length = 0;
            for (size_t i = 2; i < head; i++) length = length << 8 | frame[i];
        }
        if (size - done < head + length) break;
        int opcode = frame[0] & 15;
        if (opcode == 1 || opcode == 2) {
            (centrifugo ? on_lines : on_message)(m, frame + head, length, at);
        } else if (opcode == 9 && length < 126) {
            unsigned char pong[140];
            put(m, pong, make_frame(pong, 10, frame + head, length));
        } else if (opcode == 8) {
            part(m);
        }
        done += head + length;
    }
    return done;
}

static void on_readable(Member *m) {
    static unsigned char buffer[READ_BYTES + MAX_FRAME];
    for (;;) {
        size_t held = m->held;
        if (held > MAX_FRAME) die("a frame is too long");
        if (held) {
            memcpy(buffer, m->rest, held);
            free(m->rest);
            m->rest = NULL;
            m->held = 0;
        }
        ssize_t got = recv(m->fd, buffer + held, READ_BYTES, 0);
        int again = got < 0 && errno == EAGAIN;
        if (got <= 0 && !again) {
            part(m);
            return;
        }
        size_t size = held + (got > 0 ? got : 0);
        size_t done = again ? 0 : parse(m, buffer, size, now());
        if (m->state == CLOSED) return;
        if (size > done) {
            m->held = size - done;
            m->rest = malloc(m->held);
            memcpy(m->rest, buffer + done, m->held);
        }
        if (got < READ_BYTES) return;
    }
}

static void on_connected(Member *m) {
    char request[MAX_FRAME];
    int size = snprintf(request, sizeof request,
                        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                        targets[m - members], ports[m->place % port_count]);
    m->state = UPGRADING;
    put(m, request, size);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = m};
    if (m->state != CLOSED) epoll_ctl(poller, EPOLL_CTL_MOD, m->fd, &event);
}

static void turn(int wait_ms) {
    struct epoll_event events[EVENTS];
    int count = epoll_wait(poller, events, EVENTS, wait_ms);
    for (int i = 0; i < count; i++) {
        Member *m = events[i].data.ptr;
        if (m->state == CONNECTING && events[i].events & EPOLLOUT) on_connected(m);
        else if (m->state != CLOSED && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) on_readable(m);
    }
}

static void run_for(double seconds) {
    uint64_t end = now() + (uint64_t)(seconds * SECOND);
    while (now() < end) turn(5);
}

static void connect_member(int number) {
    Member *m = &members[number];
    m->chat = number / per_chat;
    m->place = number % per_chat;
    m->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (m->fd < 0) die("out of file descriptors (ulimit -n)");
    int on = 1;
    setsockopt(m->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    /* One address has some 28,000 ports for us: take the next one of the loopback's in time. */
    setsockopt(m->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    struct sockaddr_in from = {.sin_family = AF_INET};
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + first_address - 1 + number / PER_ADDRESS);
    bind(m->fd, (void *)&from, sizeof from);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(ports[m->place % port_count])};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connect(m->fd, (void *)&to, sizeof to);
    struct epoll_event event = {.events = EPOLLOUT | EPOLLIN, .data.ptr = m};
    epoll_ctl(poller, EPOLL_CTL_ADD, m->fd, &event);
}

static void connect_all(void) {
    uint64_t began = now(), end = began + (uint64_t)(CONNECT_SECONDS * SECOND);
    for (int i = 0; i < member_count; i++) {
        while (i - ready - failed >= connecting && now() < end) turn(5);
        connect_member(i);
    }
    while (ready + failed < member_count && now() < end) turn(5);
    double seconds = (double)(now() - began) / SECOND;
    printf("{\"phase\":\"connect\",\"members\":%d,\"ready\":%d,\"failed\":%d,\"seconds\":%.3f,"
           "\"connects_per_s\":%.0f}\n",
           member_count, ready, failed, seconds, ready / seconds);
    fflush(stdout);
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double latency(double share) { /* us */
    return latency_count ? latencies[(size_t)((latency_count - 1) * share)] / 1e3 : -1;
}

static void run_phase(const char *phase) {
    double first = 0, second = 0;
    int numbers = sscanf(strchr(phase, ':') ? strchr(phase, ':') : "", ":%lf:%lf", &first, &second);
    int is_flood = !strncmp(phase, "flood:", 6), is_rate = !strncmp(phase, "rate:", 5);
    if (numbers < (is_flood || is_rate ? 2 : 1)) die("a phase is flood:WINDOW:S, rate:RATE:S or hold:S");
    if (is_flood && (first < 1 || first > RING)) die("a window is 1 to 64");
    double seconds = is_flood || is_rate ? second : first;

    run_for(SETTLE_SECONDS);
    for (int i = 0; i < chat_count; i++) chats[i].sent = 0;
    for (int i = 0; i < member_count; i++) members[i].got = 0;
    sends = deliveries = bytes = latency_count = 0;
    window = is_flood ? (int)first : 0;
    measuring = 1;
    fprintf(stderr, "begin\n");
    uint64_t began = now(), end = began + (uint64_t)(seconds * SECOND);
    if (is_flood)
        for (int i = 0; i < chat_count; i++) flood(&chats[i]);
    if (is_rate) {
        for (uint64_t sent = 0; now() < end; turn(0))
            for (uint64_t due = (now() - began) * first / SECOND; sent < due; sent++)
                send_message(&chats[sent % chat_count], began + (uint64_t)((sent + 1) / first * SECOND));
    } else {
        while (now() < end) turn(5);
    }
    double took = (double)(now() - began) / SECOND;
    fprintf(stderr, "end\n");
    uint64_t in_time = deliveries, sent = sends;
    window = 0; /* no more; but what is on its way still counts towards what was lost and towards latency */
    for (uint64_t last = now() + (uint64_t)(DRAIN_SECONDS * SECOND), before = ~0ull; now() < last;) {
        run_for(0.25);
        if (deliveries == before) break;
        before = deliveries;
    }
    measuring = 0;
    qsort(latencies, latency_count, sizeof *latencies, by_value);
    printf("{\"phase\":\"%s\",\"ready\":%d,\"closed\":%d,\"seconds\":%.3f,\"sends\":%lu,\"sends_per_s\":%.0f,"
           "\"deliveries\":%lu,\"deliveries_per_s\":%.0f,\"others_expected\":%lu,\"mb_per_s\":%.1f,"
           "\"latency_us\":{\"count\":%zu,\"p50\":%.0f,\"p90\":%.0f,\"p99\":%.0f,\"p999\":%.0f,\"max\":%.0f}}\n",
           phase, ready, closed, took, sent, sent / took, deliveries, in_time / took, sent * (per_chat - 1),
           bytes / took / 1e6, latency_count, latency(.5), latency(.9), latency(.99), latency(.999), latency(1));
    fflush(stdout);
}

static void read_targets(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) die("can't open the targets");
    size_t room = 0;
    char line[8192];
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\r\n")] = 0;
        if ((size_t)member_count == room) targets = realloc(targets, (room = room ? room * 2 : 1024) * sizeof *targets);
        targets[member_count++] = strdup(line);
    }
    fclose(file);
}

/* Splits a member's line, and makes the frame that its chat's sender sends. */
static void set_up(int number) {
    char *rest = targets[number], *own;
    strsep(&rest, "\t");
    members[number].greeting = (own = strsep(&rest, "\t")) ? own : greeting;
    const char *text = rest ? rest : payload;
    Chat *chat = &chats[number / per_chat];
    if (strlen(text) >= MAX_FRAME || (own && strlen(own) >= MAX_GREETING)) die("a text is too long");
    if (number % per_chat) return;
    chat->message = malloc(strlen(text) + 8);
    chat->message_size = make_frame(chat->message, 1, text, strlen(text));
}

int main(int argc, char **argv) {
    static const struct option known[] = {
        {"ports", 1, 0, 'p'},    {"targets", 1, 0, 't'},  {"per-chat", 1, 0, 'n'},   {"payload", 1, 0, 's'},
        {"ready", 1, 0, 'r'},    {"greeting", 1, 0, 'g'}, {"engine-io", 0, 0, 'e'}, {"connecting", 1, 0, 'c'},
        {"centrifugo", 0, 0, 'f'}, {"from", 1, 0, 'a'},   {0},
    };
    const char *path = NULL;
    for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (option) {
        case 'p':
            for (char *p = strtok(optarg, ","); p && port_count < MAX_PORTS; p = strtok(NULL, ","))
                ports[port_count++] = atoi(p);
            break;
        case 't': path = optarg; break;
        case 'n': per_chat = atoi(optarg); break;
        case 's': payload = optarg; break;
        case 'r': ready_text = optarg; break;
        case 'g': greeting = optarg; break;
        case 'e': engine_io = 1; break;
        case 'c': connecting = atoi(optarg); break;
        case 'f': centrifugo = 1; break;
        case 'a': first_address = atoi(optarg); break;
        default: return 2;
        }
    }
    if (!port_count || !path || per_chat < 1) die("--ports, --targets and --per-chat are needed");
    if (greeting && strlen(greeting) >= MAX_GREETING) die("a text is too long");
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    read_targets(path);
    chat_count = member_count / per_chat;
    member_count = chat_count * per_chat;
    if (!member_count) die("there are fewer targets than one chat has members");
    members = calloc(member_count, sizeof *members);
    chats = calloc(chat_count, sizeof *chats);
    latencies = malloc(MAX_LATENCIES * sizeof *latencies);
    for (int i = 0; i < member_count; i++) set_up(i);
    poller = epoll_create1(0);

    connect_all();
    fprintf(stderr, "ready\n");
    for (int i = optind; i < argc; i++) run_phase(argv[i]);
    return failed ? 1 : 0;
}
