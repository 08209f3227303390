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
 *   beside:RATE:SECONDS    the same, while --fetchers HTTP clients fetch, and one scrapes every second
 *   hold:SECONDS           nothing is sent
 *
 * Options:
 *   --payload TEXT     what a sender sends (default: a typing command)
 *   --ready TEXT       a member counts as ready when a frame holds it (default "connected"; "" means the 101)
 *   --greeting TEXT    sent once upgraded, by protocols that want a first word
 *   --engine-io        answer Engine.IO's pings (a text frame "2") with "3"
 *   --centrifugo       frames hold lines: of these a "push" is a delivery, "{}" a ping that is answered
 *   --from N           the first member connects from the N-th address of loopback (default 1, 127.0.0.1)
 *   --fetchers N       HTTP clients of `beside`, each with a kept connection and a request at a time (default 20)
 *   --fetch TARGET     what they fetch
 *   --scrape TARGET    what one more client fetches every second
 *   --header TEXT      of the scrape, a whole line
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
#include "base.h"

#include "http.h"
#include "members.h"

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
    int is_beside = !strncmp(phase, "beside:", 7);
    int is_flood = !strncmp(phase, "flood:", 6), is_rate = is_beside || !strncmp(phase, "rate:", 5);
    if (is_beside && (!fetch || !scrape)) die("beside needs --fetch and --scrape");
    if (numbers < (is_flood || is_rate ? 2 : 1)) die("a phase is flood:WINDOW:S, rate:RATE:S or hold:S");
    if (is_flood && (first < 1 || first > RING)) die("a window is 1 to 64");
    double seconds = is_flood || is_rate ? second : first;

    run_for(SETTLE_SECONDS);
    for (int i = 0; i < chat_count; i++) chats[i].sent = 0;
    for (int i = 0; i < member_count; i++) members[i].got = 0;
    sends = deliveries = bytes = latency_count = fetched = scraped = refused = 0;
    if (is_beside) connect_fetchers();
    window = is_flood ? (int)first : 0;
    measuring = 1;
    fprintf(stderr, "begin\n");
    uint64_t began = now(), end = began + (uint64_t)(seconds * SECOND);
    if (is_flood)
        for (int i = 0; i < chat_count; i++) flood(&chats[i]);
    if (is_rate) {
        uint64_t scrapes = 0;
        for (uint64_t sent = 0; now() < end; turn(0)) {
            if (is_beside && gone) connect_fetchers();
            if (is_beside && scrapes == scraped && now() >= began + scrapes * SECOND) {
                scrapes++;
                request(&fetchers[fetcher_count]);
            }
            for (uint64_t due = (now() - began) * first / SECOND; sent < due; sent++)
                send_message(&chats[sent % chat_count], began + (uint64_t)((sent + 1) / first * SECOND));
        }
    } else {
        while (now() < end) turn(5);
    }
    double took = (double)(now() - began) / SECOND;
    fprintf(stderr, "end\n");
    if (is_beside) leave_fetchers();
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
           "\"fetched\":%lu,\"scraped\":%lu,\"refused\":%lu,"
           "\"deliveries\":%lu,\"deliveries_per_s\":%.0f,\"others_expected\":%lu,\"mb_per_s\":%.1f,"
           "\"latency_us\":{\"count\":%zu,\"p50\":%.0f,\"p90\":%.0f,\"p99\":%.0f,\"p999\":%.0f,\"max\":%.0f}}\n",
           phase, ready, closed, took, sent, sent / took, fetched, scraped, refused, deliveries, in_time / took, sent * (per_chat - 1),
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
        {"centrifugo", 0, 0, 'f'}, {"from", 1, 0, 'a'},   {"fetchers", 1, 0, 'F'},
        {"fetch", 1, 0, 'f' + 256}, {"scrape", 1, 0, 's' + 256}, {"header", 1, 0, 'h'}, {0},
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
        case 'F': fetcher_count = atoi(optarg); break;
        case 'f' + 256: fetch = optarg; break;
        case 's' + 256: scrape = optarg; break;
        case 'h': header = optarg; break;
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
    fetchers = calloc(fetcher_count + 1, sizeof *fetchers);
    latencies = malloc(MAX_LATENCIES * sizeof *latencies);
    for (int i = 0; i < member_count; i++) set_up(i);
    poller = epoll_create1(0);

    connect_all();
    fprintf(stderr, "ready\n");
    for (int i = optind; i < argc; i++) run_phase(argv[i]);
    return failed ? 1 : 0;
}
