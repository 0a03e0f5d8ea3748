// A board for hyle's `serial` driver: one tile of 16 x 8 weights, driven and read by a lock-step digital stand-in.
// Replace `settle` by your matter: write `drive` to your converters, read your columns into `columns`.
// Protocol: docs/drivers/serial.md. Runs on any Arduino-class board with 2 kB of RAM; 115200 baud.

const int ROWS = 16;
const int COLS = 8;
const int ADC_TOP = 511;
const long UNIT = 4L * 127L * 127L / 511L;  // one ADC code: full_scale 4, 127 DAC levels, 127 weight levels

int8_t weights[ROWS][COLS];
int drive[ROWS];
int columns[COLS];
int usedRows = 0;
int usedCols = 0;

char line[160];
int length = 0;
char answer[160];

void settle() {
  for (int col = 0; col < usedCols; col++) {
    long sum = 0;
    for (int row = 0; row < usedRows; row++) sum += (long)drive[row] * weights[row][col];
    long code = (sum >= 0 ? sum + UNIT / 2 : sum - UNIT / 2) / UNIT;
    columns[col] = (int)constrain(code, -ADC_TOP, ADC_TOP);
  }
}

uint8_t check(const char *text) {
  uint8_t seen = 0;
  while (*text) seen ^= (uint8_t)*text++;
  return seen;
}

void say(const char *number, const char *words) {
  snprintf(answer, sizeof answer, "%s %s", number, words);
  char tail[6];
  snprintf(tail, sizeof tail, " *%02X", check(answer));
  Serial.print(answer);
  Serial.print(tail);
  Serial.print('\n');
}

void sayIntegers(const char *number, const int *values, int count) {
  char words[128] = "OK";
  int at = 2;
  for (int i = 0; i < count; i++) at += snprintf(words + at, sizeof words - at, " %d", values[i]);
  say(number, words);
}

int nextInteger() {
  char *word = strtok(NULL, " ");
  return word ? atoi(word) : 0;
}

void act(const char *number, const char *verb) {
  if (!strcmp(verb, "HELLO")) {
    say(number, "OK sketch-1 1 16 8");
  } else if (!strcmp(verb, "HEALTH")) {
    say(number, "OK");
  } else if (!strcmp(verb, "TILE")) {
    nextInteger();
    int rows = nextInteger();
    int cols = nextInteger();
    if (rows < 0 || rows > ROWS || cols < 0 || cols > COLS) return say(number, "ERR size");
    usedRows = rows;
    usedCols = cols;
    memset(weights, 0, sizeof weights);
    say(number, "OK");
  } else if (!strcmp(verb, "ROW")) {
    nextInteger();
    int row = nextInteger();
    if (row < 0 || row >= usedRows) return say(number, "ERR row");
    for (int col = 0; col < usedCols; col++) weights[row][col] = (int8_t)nextInteger();
    say(number, "OK");
  } else if (!strcmp(verb, "READ")) {
    nextInteger();
    int row = nextInteger();
    if (row < 0 || row >= usedRows) return say(number, "ERR row");
    for (int col = 0; col < usedCols; col++) columns[col] = weights[row][col];
    sayIntegers(number, columns, usedCols);
  } else if (!strcmp(verb, "APPLY")) {
    if (!usedRows || nextInteger() != 0) return say(number, "ERR tile");
    for (int row = 0; row < usedRows; row++) drive[row] = nextInteger();
    settle();
    sayIntegers(number, columns, usedCols);
  } else {
    say(number, "ERR verb");
  }
}

void take() {
  char *mark = strrchr(line, '*');
  if (!mark || mark == line) return;
  mark[-1] = 0;
  bool whole = strtol(mark + 1, NULL, 16) == check(line);
  char *number = strtok(line, " ");
  char *verb = strtok(NULL, " ");
  if (!number || !verb) return;
  if (whole) act(number, verb);
  else say(number, "ERR damaged");
}

void setup() {
  Serial.begin(115200);
}

void loop() {
  while (Serial.available()) {
    char byte = (char)Serial.read();
    if (byte == '\n') {
      line[length] = 0;
      if (length) take();
      length = 0;
    } else if (length < (int)sizeof line - 1) {
      line[length++] = byte;
    }
  }
}
