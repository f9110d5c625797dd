//! The summary of `trainyard validate --collectives` accounts for every row of the table.

mod support;

use support::trainyard;

const TABLE: &str = "system,accelerator,n_ranks,n_nodes,ranks_per_node,fabric,collective,dtype,bytes,time_us,mode,library
mine,h100_sxm,8,1,8,NVLink4 + NVSwitch,all_reduce,half,1048576,45.1,out-of-place,NCCL
mine,h100_sxm,8,1,8,NVLink4 + NVSwitch,all_reduce,half,64,16.1,out-of-place,NCCL
mine,h100_sxm,8,1,8,NVLink4 + NVSwitch,all_reduce,half,2097152,,out-of-place,NCCL
mine,h100_sxm,8,1,8,NVLink4 + NVSwitch,all_reduce,half,4194304,77,expected value,NCCL
mine,h100_sxm,8,1,8,NVLink4 + NVSwitch,no_such,half,4194304,77,out-of-place,NCCL
";

#[test]
fn every_row_is_accounted_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("mine.csv");
    std::fs::write(&path, TABLE).expect("a file");
    let output = trainyard()
        .args(["validate", "--collectives"])
        .arg(&path)
        .output()
        .expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for line in [
        "5 rows: 1 scored",
        "predicted, not scored: 1 rows: size outside of 1 KiB to 8 GiB",
        "predicted, not scored: 1 rows: no measured time",
        "predicted, not scored: 1 rows: an expected, documented",
        "not predicted: 1 rows: ",
    ] {
        assert!(text.contains(line), "`{line}` is not in\n{text}");
    }
}
