/* The members: they connect, send, and receive. */
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
    if (m->state == FETCHING) {
        while (done < size && m->state == FETCHING) {
            size_t taken = take_response(m, data + done, size - done);
            if (!taken) break;
            done += taken;
        }
        return done;
    }
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
