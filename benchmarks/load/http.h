/* The HTTP clients of the phase `beside`. */
static void request(Member *m) {
    int scrapes = m == &fetchers[fetcher_count];
    char text[1024];
    int size = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n%s%s\r\n",
                        scrapes ? scrape : fetch, scrapes ? header : "", scrapes && *header ? "\r\n" : "");
    put(m, text, size);
}

/* Of an HTTP response; returns how many bytes that was. */
static size_t take_response(Member *m, const unsigned char *data, size_t size) {
    size_t done = 0;
    if (!m->body) {
        const unsigned char *end = memmem(data, size, "\r\n\r\n", 4);
        if (!end) return 0;
        done = end - data + 4;
        char head[4096];
        snprintf(head, sizeof head, "%.*s", (int)done, (const char *)data);
        const char *length = strcasestr(head, "\r\ncontent-length:");
        m->body = length ? strtoul(length + 17, NULL, 10) : 0;
        if (strncmp(head, "HTTP/1.1 200", 12)) refused++;
    }
    size_t taken = size - done < m->body ? size - done : m->body;
    m->body -= taken;
    if (!m->body) {
        if (m == &fetchers[fetcher_count]) {
            scraped++;
        } else {
            fetched++;
            request(m);
        }
    }
    return done + taken;
}

/* Connects the fetchers that have no connection (any more). */
static void connect_fetchers(void) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(ports[0])};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i <= fetcher_count; i++) {
        Member *m = &fetchers[i];
        if (m->state == FETCHING) continue;
        *m = (Member){.fd = socket(AF_INET, SOCK_STREAM, 0), .state = FETCHING};
        if (m->fd < 0 || connect(m->fd, (void *)&to, sizeof to)) die("an HTTP client can't connect");
        fcntl(m->fd, F_SETFL, O_NONBLOCK);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = m};
        epoll_ctl(poller, EPOLL_CTL_ADD, m->fd, &event);
        if (i < fetcher_count) request(m);
    }
    gone = 0;
}

static void leave_fetchers(void) {
    for (int i = 0; i <= fetcher_count; i++) part(&fetchers[i]);
}
