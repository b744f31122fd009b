// The client of Connect in Node.
import { connect } from "./calls.js";

await connect(process.argv[2], (line) => console.log(line));
