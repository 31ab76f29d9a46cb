// The C client of JetStream with a server, edged or nats-server.
// jetstream_programs_test.go says how it is run.

#include <inttypes.h>
#include <nats/nats.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { patience = 60000 }; // ms
#define SECOND INT64_C(1000000000)

static natsConnection *nc;
static jsCtx *js;
static atomic_int reconnected, came;

static void fail(const char *what, natsStatus s) {
  fprintf(stderr, "%s: %s\n%s\n", what, natsStatus_GetText(s), nats_GetLastError(NULL));
  exit(1);
}

#define MUST(call)                    \
  do {                                \
    natsStatus status_ = (call);      \
    if (status_ != NATS_OK)           \
      fail(#call, status_);           \
  } while (0)

// saw collects the observations of the present scenario.
static char saw[4096];

static void note(const char *format, ...) {
  size_t length = strlen(saw);
  va_list args;
  va_start(args, format);
  vsnprintf(saw + length, sizeof saw - length, format, args);
  va_end(args);
}

static void onReconnect(natsConnection *c, void *arg) { (void)c, (void)arg, reconnected++; }

// await waits until a number that callbacks count is so high.
static void await(const char *what, atomic_int *number, int least) {
  for (int ms = 0; *number < least; ms += 5) {
    if (ms > patience) {
      fprintf(stderr, "gave up waiting: %s\n", what);
      exit(1);
    }
    nats_Sleep(5);
  }
}

static void dial(void) {
  natsOptions *opts;
  jsOptions options;
  MUST(natsOptions_Create(&opts));
  MUST(natsOptions_SetURL(opts, getenv("SERVER")));
  MUST(natsOptions_SetTimeout(opts, patience));
  MUST(natsOptions_SetMaxReconnect(opts, -1));
  MUST(natsOptions_SetReconnectWait(opts, 5));
  MUST(natsOptions_SetReconnectJitter(opts, 0, 0));
  MUST(natsOptions_SetReconnectedCB(opts, onReconnect, NULL));
  MUST(natsConnection_Connect(&nc, opts));
  natsOptions_Destroy(opts);
  MUST(jsOptions_Init(&options));
  options.Wait = patience;
  MUST(natsConnection_JetStream(&js, nc, &options));
}

// lastSequence asks until there is an answer: edged has none while it waits for Redis.
static uint64_t lastSequence(void) {
  jsStreamInfo *info;
  while (js_GetStreamInfo(&info, js, "events", NULL, NULL) != NATS_OK)
    nats_Sleep(2);
  uint64_t last = info->State.LastSeq;
  jsStreamInfo_Destroy(info);
  return last;
}

// pushFrom asks for n items, numbered from first on, and returns when the server knows them.
static void pushFrom(int first, int n) {
  uint64_t before = lastSequence();
  printf("please push");
  for (int i = first; i < first + n; i++)
    printf(" %d", i);
  printf("\n");
  fflush(stdout);
  while (lastSequence() < before + n)
    nats_Sleep(2);
}

static void push(int n) { pushFrom(0, n); }

// configure is a durable consumer of the items that are pushed from now on.
static jsSubOptions configure(void) {
  jsSubOptions so;
  MUST(jsSubOptions_Init(&so));
  so.ManualAck = true;
  so.Config.AckPolicy = js_AckExplicit;
  so.Config.AckWait = 600 * SECOND;
  so.Config.DeliverPolicy = js_DeliverNew;
  return so;
}

static void print(natsMsg *m) {
  jsMsgMetaData *meta;
  MUST(natsMsg_GetMetaData(&meta, m));
  note("%.*s of %s/%s, %" PRIu64 "/%" PRIu64 ", delivered %" PRIu64 "; ", natsMsg_GetDataLength(m), natsMsg_GetData(m),
         meta->Stream, meta->Consumer, meta->Sequence.Stream, meta->Sequence.Consumer, meta->NumDelivered);
  jsMsgMetaData_Destroy(meta);
}

static void standing(const char *name) {
  jsConsumerInfo *info;
  MUST(js_GetConsumerInfo(&info, js, "events", name, NULL, NULL));
  note("delivered %" PRIu64 "/%" PRIu64 ", acknowledged up to %" PRIu64 ", %d owed, %d to come", info->Delivered.Stream,
         info->Delivered.Consumer, info->AckFloor.Stream, (int)info->NumAckPending, (int)info->NumPending);
  jsConsumerInfo_Destroy(info);
}

// owes returns how many items a consumer still has to acknowledge.
static int64_t owes(const char *name) {
  jsConsumerInfo *info;
  while (js_GetConsumerInfo(&info, js, "events", name, NULL, NULL) != NATS_OK)
    nats_Sleep(2);
  int64_t owed = info->NumAckPending + (int64_t)info->NumPending;
  jsConsumerInfo_Destroy(info);
  return owed;
}

static void settled(const char *name) {
  while (owes(name) > 0)
    nats_Sleep(2);
}

static void acknowledge(natsMsg *m) {
  MUST(natsMsg_AckSync(m, NULL, NULL));
  natsMsg_Destroy(m);
}

static void leave(natsSubscription *sub) {
  MUST(natsSubscription_Unsubscribe(sub));
  natsSubscription_Destroy(sub);
}

static void streams(void) {
  jsStreamInfo *info;
  jsStreamNamesList *names;
  jsErrCode code = 0;
  push(3);
  MUST(js_GetStreamInfo(&info, js, "events", NULL, NULL));
  MUST(js_StreamNames(&names, js, NULL, NULL));
  natsStatus unknown = js_GetStreamInfo(&(jsStreamInfo *){0}, js, "others", NULL, &code);
  note("%s of %s, %" PRIu64 " items from %" PRIu64 " to %" PRIu64 ", %d streams; others: %s, %d", info->Config->Name,
         info->Config->Subjects[0], info->State.Msgs, info->State.FirstSeq, info->State.LastSeq, names->Count,
         natsStatus_GetText(unknown), (int)code);
  jsStreamInfo_Destroy(info);
  jsStreamNamesList_Destroy(names);
}

static void singleItems(void) {
  natsMsg *m;
  jsDirectGetMsgOptions direct;
  jsErrCode code = 0;
  MUST(js_GetMsg(&m, js, "events", 2, NULL, NULL));
  note("%s of %s; ", natsMsg_GetData(m), natsMsg_GetSubject(m));
  natsMsg_Destroy(m);
  MUST(js_GetLastMsg(&m, js, "events", "events", NULL, NULL));
  note("last %s, %" PRIu64 "; ", natsMsg_GetData(m), natsMsg_GetSequence(m));
  natsMsg_Destroy(m);
  MUST(jsDirectGetMsgOptions_Init(&direct));
  direct.Sequence = 1;
  MUST(js_DirectGetMsg(&m, js, "events", NULL, &direct));
  note("direct %s; ", natsMsg_GetData(m));
  natsMsg_Destroy(m);
  natsStatus unknown = js_GetMsg(&m, js, "events", 99, NULL, &code);
  note("%s, %d; ", natsStatus_GetText(unknown), (int)code);
  direct.Sequence = 99;
  note("%s", natsStatus_GetText(js_DirectGetMsg(&m, js, "events", NULL, &direct)));
}

static void administering(void) {
  jsConsumerConfig config;
  jsConsumerInfo *info;
  jsConsumerNamesList *names;
  jsErrCode code = 0;
  MUST(jsConsumerConfig_Init(&config));
  config.Durable = "made";
  config.AckPolicy = js_AckExplicit;
  config.MaxAckPending = 5;
  MUST(js_AddConsumer(&info, js, "events", &config, NULL, NULL));
  note("%s, %d owed at most; ", info->Name, (int)info->Config->MaxAckPending);
  jsConsumerInfo_Destroy(info);
  config.MaxAckPending = 6;
  MUST(js_UpdateConsumer(&info, js, "events", &config, NULL, NULL));
  note("%d; ", (int)info->Config->MaxAckPending);
  jsConsumerInfo_Destroy(info);
  MUST(js_ConsumerNames(&names, js, "events", NULL, NULL));
  note("%d consumers; ", names->Count);
  jsConsumerNamesList_Destroy(names);
  MUST(js_DeleteConsumer(js, "events", "made", NULL, NULL));
  natsStatus unknown = js_DeleteConsumer(js, "events", "made", NULL, &code);
  note("%s, %d", natsStatus_GetText(unknown), (int)code);
}

static void pulling(void) {
  natsSubscription *sub;
  natsMsgList list;
  jsFetchRequest request;
  jsSubOptions so = configure();
  MUST(js_PullSubscribe(&sub, js, "events", "pull", NULL, &so, NULL));
  push(4);
  MUST(natsSubscription_Fetch(&list, sub, 3, patience, NULL));
  for (int i = 0; i < list.Count; i++) {
    print(list.Msgs[i]);
    acknowledge(list.Msgs[i]);
    list.Msgs[i] = NULL;
  }
  natsMsgList_Destroy(&list);

  MUST(jsFetchRequest_Init(&request));
  request.Batch = 1;
  request.MaxBytes = 10000;
  request.Expires = 60 * SECOND;
  request.Heartbeat = 5 * SECOND;
  MUST(natsSubscription_FetchRequest(&list, sub, &request));
  note("then %d; ", list.Count);
  acknowledge(list.Msgs[0]);
  list.Msgs[0] = NULL;
  natsMsgList_Destroy(&list);
  natsStatus none = natsSubscription_Fetch(&list, sub, 1, 50, NULL);
  note("%s; ", natsStatus_GetText(none));
  standing("pull");
  leave(sub);
}

static void answers(void) {
  natsSubscription *sub;
  natsMsgList list;
  jsSubOptions so = configure();
  MUST(js_PullSubscribe(&sub, js, "events", "answers", NULL, &so, NULL));
  push(3);
  MUST(natsSubscription_Fetch(&list, sub, 3, patience, NULL));
  MUST(natsMsg_InProgress(list.Msgs[2], NULL));
  MUST(natsMsg_Term(list.Msgs[1], NULL));
  MUST(natsMsg_NakWithDelay(list.Msgs[0], 50, NULL));
  acknowledge(list.Msgs[2]);
  list.Msgs[2] = NULL;
  natsMsgList_Destroy(&list);
  MUST(natsSubscription_Fetch(&list, sub, 1, patience, NULL));
  print(list.Msgs[0]);
  MUST(natsMsg_Nak(list.Msgs[0], NULL));
  natsMsgList_Destroy(&list);
  MUST(natsSubscription_Fetch(&list, sub, 1, patience, NULL));
  print(list.Msgs[0]);
  acknowledge(list.Msgs[0]);
  list.Msgs[0] = NULL;
  natsMsgList_Destroy(&list);
  settled("answers");
  standing("answers");
  leave(sub);
}

static void onItem(natsConnection *c, natsSubscription *sub, natsMsg *m, void *arg) {
  (void)c, (void)sub, (void)arg;
  natsMsg_Ack(m, NULL);
  natsMsg_Destroy(m);
  came++;
}

// pushedSeen tells which items have come. Owned by the subscription's thread while there is one.
static int pushedSeen[200];

// onDifferentItem counts the items that have not come before.
static void onDifferentItem(natsConnection *c, natsSubscription *sub, natsMsg *m, void *arg) {
  (void)c, (void)sub, (void)arg;
  int *item = &pushedSeen[atoi(natsMsg_GetData(m))];
  natsMsg_Ack(m, NULL); // fails while there is no connection: the item comes again
  natsMsg_Destroy(m);
  if (!*item)
    came++;
  *item = 1;
}

static void pushed(void) {
  natsSubscription *sub;
  jsSubOptions so = configure();
  so.Config.Durable = "pushed";
  so.Config.FlowControl = true;
  so.Config.Heartbeat = SECOND;
  came = 0;
  MUST(js_Subscribe(&sub, js, "events", onItem, NULL, NULL, &so, NULL));
  push(300);
  await("all items come", &came, 300);
  settled("pushed");
  standing("pushed");
  leave(sub);
}

static void group(void) {
  natsSubscription *subs[2];
  came = 0;
  for (int i = 0; i < 2; i++) {
    jsSubOptions so = configure();
    so.Config.Durable = "grouped";
    so.Queue = "workers";
    MUST(js_Subscribe(&subs[i], js, "events", onItem, NULL, NULL, &so, NULL));
  }
  push(300);
  await("all items come", &came, 300);
  settled("grouped");
  standing("grouped");
  leave(subs[0]);
  leave(subs[1]);
}

static void synchronous(void) {
  natsSubscription *sub;
  natsMsg *m;
  jsSubOptions so = configure();
  so.Config.Durable = "synchronous";
  MUST(js_SubscribeSync(&sub, js, "events", NULL, &so, NULL));
  push(2);
  for (int i = 0; i < 2; i++) {
    MUST(natsSubscription_NextMsg(&m, sub, patience));
    print(m);
    acknowledge(m);
  }
  standing("synchronous");
  leave(sub);
}

static void ordered(void) {
  natsSubscription *sub;
  jsSubOptions so;
  MUST(jsSubOptions_Init(&so));
  so.Ordered = true;
  MUST(js_SubscribeSync(&sub, js, "events", NULL, &so, NULL));
  uint64_t inOrder = 0;
  for (uint64_t want = lastSequence(); inOrder < want;) {
    natsMsg *m;
    jsMsgMetaData *meta;
    MUST(natsSubscription_NextMsg(&m, sub, patience));
    MUST(natsMsg_GetMetaData(&meta, m));
    if (meta->Sequence.Stream != ++inOrder) {
      note("out of order at %" PRIu64, inOrder);
      break;
    }
    jsMsgMetaData_Destroy(meta);
    natsMsg_Destroy(m);
  }
  note("%" PRIu64 " in order", inOrder);
  leave(sub);
}

// fetch fetches and acknowledges, and counts the items that have not come before.
static void fetch(natsSubscription *sub, int *seen, int *different) {
  natsMsgList list = {0};
  natsStatus s = natsSubscription_Fetch(&list, sub, 10, 1000, NULL); // fails while the server is away
  for (int i = 0; s == NATS_OK && i < list.Count; i++) {
    int *item = &seen[atoi(natsMsg_GetData(list.Msgs[i]))];
    *different += !*item;
    *item = 1;
    natsMsg_Ack(list.Msgs[i], NULL);
  }
  natsMsgList_Destroy(&list);
}

// across fetches while the server or Redis restarts. Each item comes at least once.
static void across(const char *durable, const char *what) {
  natsSubscription *sub;
  jsSubOptions so = configure();
  int seen[200] = {0}, different = 0, before = reconnected;
  so.Config.AckWait = 2 * SECOND;
  MUST(js_PullSubscribe(&sub, js, "events", durable, NULL, &so, NULL));
  push(100);
  while (different < 50)
    fetch(sub, seen, &different);
  printf("please %s\n", what);
  fflush(stdout);
  if (strcmp(what, "restart") == 0)
    await("it is connected again", &reconnected, before + 1);
  pushFrom(100, 100);
  while (owes(durable) > 0)
    fetch(sub, seen, &different);
  note("%d items", different);
  natsSubscription_Destroy(sub);
}

// pushAcross pushes 200 items, half of them after a fault. It returns when all have come.
static void pushAcross(const char *what) {
  int before = reconnected;
  push(100);
  await("half of the items come", &came, 50);
  printf("please %s\n", what);
  fflush(stdout);
  if (strcmp(what, "restart") == 0)
    await("it is connected again", &reconnected, before + 1);
  pushFrom(100, 100);
  await("all items come", &came, 200);
}

// pushedAcross is across for a push consumer.
static void pushedAcross(const char *durable, const char *what) {
  natsSubscription *sub;
  jsSubOptions so = configure();
  so.Config.Durable = durable;
  so.Config.AckWait = 2 * SECOND;
  so.Config.Heartbeat = SECOND;
  memset(pushedSeen, 0, sizeof pushedSeen);
  came = 0;
  MUST(js_Subscribe(&sub, js, "events", onDifferentItem, NULL, NULL, &so, NULL));
  pushAcross(what);
  while (owes(durable) > 0)
    nats_Sleep(2);
  note("%d items", came);
  leave(sub);
}

static atomic_int groupSeen[200]; // by both members of the group

// onItemOfGroup is onDifferentItem for a group, whose members have a thread each.
static void onItemOfGroup(natsConnection *c, natsSubscription *sub, natsMsg *m, void *arg) {
  (void)c, (void)sub, (void)arg;
  int item = atoi(natsMsg_GetData(m));
  natsMsg_Ack(m, NULL);
  natsMsg_Destroy(m);
  if (atomic_exchange(&groupSeen[item], 1) == 0)
    came++;
}

// groupAcross is across for the two members of a queue group.
static void groupAcross(const char *durable, const char *what) {
  natsSubscription *subs[2];
  memset(groupSeen, 0, sizeof groupSeen);
  came = 0;
  for (int i = 0; i < 2; i++) {
    jsSubOptions so = configure();
    so.Config.Durable = durable;
    so.Config.AckWait = 2 * SECOND;
    so.Queue = "workers";
    MUST(js_Subscribe(&subs[i], js, "events", onItemOfGroup, NULL, NULL, &so, NULL));
  }
  pushAcross(what);
  while (owes(durable) > 0)
    nats_Sleep(2);
  note("%d items", came);
  leave(subs[0]);
  leave(subs[1]);
}

static uint64_t nextInOrder; // the sequence of the item that is to come next

static void onOrderedItem(natsConnection *c, natsSubscription *sub, natsMsg *m, void *arg) {
  (void)c, (void)sub, (void)arg;
  jsMsgMetaData *meta;
  MUST(natsMsg_GetMetaData(&meta, m));
  if (meta->Sequence.Stream != nextInOrder++)
    fail("an item is out of order", NATS_ERR);
  jsMsgMetaData_Destroy(meta);
  natsMsg_Destroy(m);
  came++;
}

// orderedAcross is across for an ordered consumer, which gets each item once, in order.
static void orderedAcross(const char *what) {
  natsSubscription *sub;
  jsSubOptions so;
  MUST(jsSubOptions_Init(&so));
  so.Ordered = true;
  so.Config.Heartbeat = SECOND / 2;
  so.Config.DeliverPolicy = js_DeliverByStartSequence;
  so.Config.OptStartSeq = nextInOrder = lastSequence() + 1;
  came = 0;
  MUST(js_Subscribe(&sub, js, "events", onOrderedItem, NULL, NULL, &so, NULL));
  pushAcross(what);
  note("%d items", came);
  leave(sub);
}

static void orderedAcrossRestart(void) { orderedAcross("restart"); }
static void orderedAcrossRedis(void) { orderedAcross("restart Redis"); }
static void groupAcrossRestart(void) { groupAcross("group-restarted", "restart"); }
static void groupAcrossRedis(void) { groupAcross("group-redis-restarted", "restart Redis"); }
static void pushedAcrossRestart(void) { pushedAcross("push-restarted", "restart"); }
static void pushedAcrossRedis(void) { pushedAcross("push-redis-restarted", "restart Redis"); }
static void acrossRestart(void) { across("restarted", "restart"); }
static void acrossRedis(void) { across("redis-restarted", "restart Redis"); }

int main(void) {
  static const struct {
    const char *name;
    void (*run)(void);
  } scenarios[] = {
      {"streams", streams},
      {"single items", singleItems},
      {"administering consumers", administering},
      {"pulling", pulling},
      {"answers to items", answers},
      {"pushed items", pushed},
      {"a queue group", group},
      {"a synchronous subscription", synchronous},
      {"an ordered consumer", ordered},
      {"a restart amid the items", acrossRestart},
      {"a restart of Redis amid the items", acrossRedis},
      {"a restart amid pushed items", pushedAcrossRestart},
      {"a restart of Redis amid pushed items", pushedAcrossRedis},
      {"a restart amid the items of a queue group", groupAcrossRestart},
      {"a restart of Redis amid the items of a queue group", groupAcrossRedis},
      {"a restart amid ordered items", orderedAcrossRestart},
      {"a restart of Redis amid ordered items", orderedAcrossRedis},
  };
  jsConsumerConfig keeper;
  dial();
  // It acknowledges nothing, so that edged keeps all items too.
  MUST(jsConsumerConfig_Init(&keeper));
  keeper.Durable = "keeper";
  keeper.AckPolicy = js_AckExplicit;
  MUST(js_AddConsumer(NULL, js, "events", &keeper, NULL, NULL));

  for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
    *saw = 0;
    fprintf(stderr, "%s\n", scenarios[i].name);
    alarm(patience / 1000); // ends the program
    scenarios[i].run();
    printf("saw %s: %s\n", scenarios[i].name, saw);
    fflush(stdout);
  }
  jsCtx_Destroy(js);
  natsConnection_Destroy(nc);
  nats_Close();
}
