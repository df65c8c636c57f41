# Griliches (1976): log wages, 13 coefficients, 15 moments.  One step, two steps, iterated.
#   Rscript --vanilla griliches.R griliches.csv > griliches_output.csv
folder <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE)))
source(file.path(folder, "gmm.R"))
data <- read.csv(commandArgs(trailingOnly = TRUE)[1])
years <- paste0("D_", c(67:71, 73))
exogenous <- as.matrix(cbind(data[c("expr", "tenure", "rns", "smsa", years)], const = 1))
X <- cbind(as.matrix(data[c("s", "iq")]), exogenous)
Z <- cbind(as.matrix(data[c("med", "kww", "age", "mrt")]), exogenous)
y <- data$lw
cat("name,value\n")

one <- gmm(y, X, Z, Z)
say("onestep b", one$b)
say("onestep se", sandwich(one, robust(one, Z)))

two <- gmm(y, X, Z, robust(one, Z))
say("twostep b", two$b)
say("twostep se", sandwich(two, robust(two, Z)))
say("twostep minimised", minimised_weight(two))
say("twostep J", c(stat = nrow(Z) * criterion(two, Z)))

last <- two
for (step in 1:500) {
  following <- gmm(y, X, Z, robust(last, Z))
  moved <- max(abs(following$b / last$b - 1))
  last <- following
  if (moved < 1e-14) break
}
stopifnot(moved < 1e-12)
say("iterated b", last$b)
say("iterated se", sandwich(last, robust(last, Z)))
say("iterated J", c(stat = nrow(Z) * criterion(last, Z)))
